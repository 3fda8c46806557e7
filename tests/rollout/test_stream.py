"""What an update trains on: dynamic sampling, refills, and independence of timing."""

import json
import logging
import random
import sys
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from builders import make_record
from rollout_fakes import FakeEpisodes, Shuffler, Tasks, make_runner

from lzero.config import RolloutConfig
from lzero.errors import ConfigError, StoreError, TrainError
from lzero.rollout.batch import Collected
from lzero.rollout.filters import drop_reason, leave_out, take_back, tasks_to_try
from lzero.rollout.stream import SynchronousStream
from lzero.types import Failure, Json, Task

BROKEN = Failure(kind="engine", what="no answer", where="step 1, sampling")


def luck(task: Task, seed: int, attempt: int) -> str:
    """Return right or wrong with equal chances, by seed."""
    return "yes" if random.Random(seed).random() < 0.5 else "no"


def make_stream(
    episodes: FakeEpisodes,
    *,
    state: Mapping[str, Json] = MappingProxyType({}),
    num_tasks: int = 10**9,
    **config: float | str,
) -> SynchronousStream:
    settings = RolloutConfig.model_validate({"tasks_per_update": 8, "episodes_per_task": 2} | config)
    runner = make_runner(episodes, **settings.model_dump())
    return SynchronousStream(runner, Tasks(num_tasks), config=settings, seed=5, state=state)


def what_happened(collected: Collected) -> object:
    """Return everything but the clock."""
    metrics = {name: value for name, value in collected.metrics.items() if not name.endswith(("_s", "per_s"))}
    return collected.groups, collected.records, metrics


@pytest.mark.parametrize("shuffle", [1, 2, 3])
@pytest.mark.parametrize("concurrency", [1, 3, 100])
async def test_what_is_collected_does_not_depend_on_timing(shuffle: int, concurrency: int) -> None:
    plain = make_stream(FakeEpisodes(luck))
    shuffled = make_stream(FakeEpisodes(luck, Shuffler(shuffle)), concurrency=concurrency)
    for update in range(3):
        assert what_happened(await shuffled.take(update)) == what_happened(await plain.take(update))
    assert shuffled.state == plain.state


async def test_dropped_groups_are_refilled() -> None:
    collected = await make_stream(FakeEpisodes(luck), drop_uniform=1.0, max_refills=20).take(0)
    assert len(collected.groups) == 8
    assert all({reward.score for reward in group.rewards} == {0.0, 1.0} for group in collected.groups)
    reasons = {record.dropped for record in collected.records}
    assert {"", "all_zero", "all_one"} <= reasons <= {"", "all_zero", "all_one", "surplus"}
    assert collected.metrics["groups/kept"] == 8
    assert collected.metrics["groups/all_one"] == sum(record.dropped == "all_one" for record in collected.records)


async def test_refills_are_bounded_and_then_the_last_drops_are_taken_back() -> None:
    episodes = FakeEpisodes(lambda task, seed, attempt: "yes")
    collected = await make_stream(episodes, drop_uniform=1.0, max_refills=2).take(0)
    assert len(collected.records) == 24
    assert [group.task.id for group in collected.groups] == [f"task-{position}" for position in range(16, 24)]
    assert collected.metrics["groups/taken_back"] == 8


async def test_without_dynamic_sampling_nothing_is_dropped() -> None:
    collected = await make_stream(FakeEpisodes(lambda task, seed, attempt: "no"), drop_uniform=0.0).take(0)
    assert len(collected.records) == len(collected.groups) == 8


async def test_a_resumed_stream_goes_on_where_the_first_stopped() -> None:
    whole = make_stream(FakeEpisodes(luck))
    await whole.take(0)
    resumed = make_stream(FakeEpisodes(luck), state=whole.state)
    assert what_happened(await resumed.take(1)) == what_happened(await whole.take(1))


async def test_tasks_that_are_used_up_start_over_with_other_seeds() -> None:
    collected = await make_stream(FakeEpisodes(luck), num_tasks=4, drop_uniform=0.0).take(0)
    assert [group.task.id for group in collected.groups] == [f"task-{position % 4}" for position in range(8)]
    assert len({episode.id for group in collected.groups for episode in group.episodes}) == 16
    assert len({episode.seed for group in collected.groups for episode in group.episodes}) == 16


async def test_groups_that_failures_emptied_are_refilled_and_counted() -> None:
    def decide(task: Task, seed: int, attempt: int) -> str | Failure:
        return BROKEN if task.id == "task-3" else luck(task, seed, attempt)

    collected = await make_stream(FakeEpisodes(decide), drop_uniform=0.0).take(0)
    assert [group.task.id for group in collected.groups] == [
        f"task-{position}" for position in (0, 1, 2, 4, 5, 6, 7, 8)
    ]
    assert collected.metrics["groups/too_few"] == 1
    assert collected.metrics["failures/engine"] == 4
    assert collected.metrics["rollout/episodes"] == 16, "failed episodes are in no mean"


async def test_an_update_without_any_group_is_an_error() -> None:
    episodes = FakeEpisodes(lambda task, seed, attempt: BROKEN)
    with pytest.raises(TrainError, match="all 24 groups lost their episodes"):
        await make_stream(episodes, max_failure_rate=1.0, max_refills=2).take(0)


@pytest.mark.parametrize(
    ("answers", "chance", "reason"),
    [
        (("yes", "yes"), 0.1, "all_one"),
        (("no", "no"), 0.1, "all_zero"),
        (("no", "no"), 0.5, ""),
        (("no", "yes"), 0.1, ""),
        (("yes", None), 0.1, "too_few"),
        (("yes", "no", None), 0.1, ""),
    ],
)
def test_why_a_group_is_dropped(answers: tuple[str | None, ...], chance: float, reason: str) -> None:
    assert drop_reason(make_record(*answers), chance, RolloutConfig(drop_uniform=0.5)) == reason


def test_a_group_of_one_episode_is_not_judged() -> None:
    assert drop_reason(make_record("no"), 0.0, RolloutConfig(drop_uniform=1.0, episodes_per_task=1)) == ""


def test_only_uniform_groups_are_taken_back_the_last_ones_first() -> None:
    reasons = ("all_zero", "too_few", "", "all_one", "all_zero")
    records = [make_record("no", position=place, dropped=reason) for place, reason in enumerate(reasons)]
    taken, number = take_back(records, 3)
    assert [record.dropped for record in taken] == ["all_zero", "too_few", "", "", ""]
    assert number == 2
    assert take_back(records, 10)[1] == 3
    assert take_back(records, 1) == (records, 0)


@pytest.mark.parametrize(
    ("num_kept", "num_dropped", "num_tasks"),
    [
        (0, 0, 64),  # the first round
        (64, 0, 0),
        (70, 30, 0),
        (32, 32, 64),  # half are kept: 32 missing ask for 64
        (48, 16, 21),
        (63, 1, 1),
        (1, 63, 64),  # never more than a first round
        (0, 64, 64),
    ],
)
def test_a_refill_asks_for_what_will_be_enough_at_the_rate_so_far(
    num_kept: int, num_dropped: int, num_tasks: int
) -> None:
    kept, dropped = make_record("yes", "no"), make_record("no", "no", dropped="all_zero")
    assert tasks_to_try([kept] * num_kept + [dropped] * num_dropped, 64) == num_tasks


def test_groups_beyond_what_is_wanted_are_left_out_the_last_ones_first() -> None:
    reasons = ("", "all_zero", "", "", "")
    records = [make_record("no", position=place, dropped=reason) for place, reason in enumerate(reasons)]
    assert [record.dropped for record in leave_out(records, 2)] == ["", "all_zero", "", "surplus", "surplus"]
    assert leave_out(records, 4) == records


async def test_dapo_drops_every_uniform_group_and_refills_until_the_batch_is_full() -> None:
    collected = await make_stream(FakeEpisodes(luck), filter="dapo", max_refills=20).take(0)
    assert len(collected.groups) == 8
    assert all({reward.score for reward in group.rewards} == {0.0, 1.0} for group in collected.groups)
    assert collected.metrics["groups/missing"] == 0


async def test_dapo_takes_nothing_back_and_a_batch_that_stays_short_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def decide(task: Task, seed: int, attempt: int) -> str:
        return luck(task, seed, attempt) if task.id == "task-5" else "no"

    stream = make_stream(FakeEpisodes(decide), filter="dapo", max_refills=2, episodes_per_task=8)
    with caplog.at_level(logging.WARNING, logger="lzero.rollout.batch"):
        collected = await stream.take(0)
    assert [group.task.id for group in collected.groups] == ["task-5"]
    assert len(collected.records) == 24
    assert collected.metrics["groups/missing"] == 7
    assert collected.metrics["groups/all_zero"] == 23
    assert [record.getMessage() for record in caplog.records] == [
        "update 0 trains on 1 of 8 groups and 8 of 64 episodes; it tried 24 groups and dropped: all_zero 23"
    ]


async def test_dapo_with_nothing_left_to_train_on_stops_the_run_with_the_reason() -> None:
    episodes = FakeEpisodes(lambda task, seed, attempt: "yes")
    with pytest.raises(TrainError, match=r"none of 24 groups is left to train on; dropped: all_one 24"):
        await make_stream(episodes, filter="dapo", max_refills=2).take(0)


async def test_without_a_filter_uniform_groups_are_trained_on() -> None:
    collected = await make_stream(FakeEpisodes(lambda task, seed, attempt: "no"), filter="none").take(0)
    assert len(collected.records) == len(collected.groups) == 8


async def test_episodes_that_failures_took_from_a_batch_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    def decide(task: Task, seed: int, attempt: int) -> str | Failure:
        return BROKEN if random.Random(seed).random() < 0.2 else "yes"

    stream = make_stream(FakeEpisodes(decide), filter="none", episodes_per_task=4)
    collected = await stream.take(0)
    lost = 8 * 4 - sum(len(group.episodes) for group in collected.groups)
    assert lost > 0
    assert collected.metrics["groups/missing_episodes"] == lost
    assert f"trains on 8 of 8 groups and {32 - lost} of 32 episodes" in caplog.text
    assert all(episode.failure is None for group in collected.groups for episode in group.episodes)


async def test_once_enough_of_a_round_is_in_its_stragglers_are_cut_off_dropped_and_recorded() -> None:
    hanging = {"train/1/0", "train/3/0", "train/3/1"}
    episodes = FakeEpisodes(lambda task, seed, attempt: "yes", hanging=hanging)
    stream = make_stream(
        episodes, filter="none", stragglers=0.8, tasks_per_update=5, episodes_per_task=3, max_refills=0
    )
    collected = await stream.take(0)
    cut = {
        episode.id
        for record in collected.records
        for episode in record.episodes
        if episode.failure is not None and episode.failure.kind == "straggler"
    }
    assert cut == hanging
    assert [record.dropped for record in collected.records] == ["", "", "", "straggler", ""]
    assert [len(group.episodes) for group in collected.groups] == [3, 2, 3, 3]
    assert collected.metrics["failures/straggler"] == 3
    assert len(episodes.attempts) == 15, "a straggler is not tried again"


async def test_stragglers_do_not_trip_the_circuit_breaker() -> None:
    hanging = {f"train/{position}/0" for position in range(8)}
    episodes = FakeEpisodes(luck, hanging=hanging)
    collected = await make_stream(
        episodes, filter="none", stragglers=0.6, episodes_per_task=3, max_failure_rate=0.0
    ).take(0)
    assert collected.metrics["failures/straggler"] == 8


def solvable(task: Task, seed: int, attempt: int) -> str:
    """Tasks 0 to 9 are never solved, 10 to 19 half the time, the others always."""
    number = int(task.id.removeprefix("task-"))
    chance = (0.0, 0.5, 1.0)[number // 10]
    return "yes" if random.Random(seed).random() < chance else "no"


async def test_tasks_that_are_solved_half_the_time_are_drawn_more_often() -> None:
    stream = make_stream(
        FakeEpisodes(solvable), num_tasks=30, curriculum="pass_rate", filter="none", episodes_per_task=4
    )
    drawn: Counter[int] = Counter()
    for update in range(40):
        collected = await stream.take(update)
        assert len({record.task.id for record in collected.records}) == 8, "none twice while there are others"
        if update >= 10:
            drawn.update(int(record.task.id.removeprefix("task-")) // 10 for record in collected.records)
    assert drawn[1] > 2 * max(drawn[0], drawn[2])
    assert min(drawn[0], drawn[2]) > 0, "what was hopeless is tried again"
    assert collected.metrics["curriculum/tried"] == 1


async def test_a_refill_draws_tasks_that_the_update_has_not_tried() -> None:
    episodes = FakeEpisodes(lambda task, seed, attempt: "no")
    collected = await make_stream(episodes, num_tasks=24, curriculum="pass_rate", drop_uniform=1.0, max_refills=2).take(
        0
    )
    assert len({record.task.id for record in collected.records}) == len(collected.records) == 24


async def test_a_curriculum_that_resumes_from_json_goes_on_as_if_it_had_not_stopped() -> None:
    def make(state: Mapping[str, Json] = MappingProxyType({})) -> SynchronousStream:
        return make_stream(FakeEpisodes(solvable), num_tasks=30, curriculum="pass_rate", state=state)

    whole = make()
    for update in range(3):
        await whole.take(update)
    resumed = make(json.loads(json.dumps(whole.state)))
    assert what_happened(await resumed.take(3)) == what_happened(await whole.take(3))
    assert resumed.state == whole.state


async def test_a_curriculum_takes_each_task_again_when_all_are_used_up() -> None:
    collected = await make_stream(FakeEpisodes(luck), num_tasks=3, curriculum="pass_rate", filter="none").take(0)
    assert sorted(Counter(group.task.id for group in collected.groups).values()) == [2, 3, 3]


def test_a_curriculum_over_tasks_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs tasks that repeat"):
        make_stream(FakeEpisodes(luck), num_tasks=sys.maxsize, curriculum="pass_rate")


@pytest.mark.parametrize("state", [{"next_task": "x"}, {"pass_rates": {"0": [1]}}, {"pass_rates": {"99": [4.0, 1.0]}}])
def test_a_state_of_other_tasks_is_refused(state: dict[str, Json]) -> None:
    with pytest.raises(StoreError, match="the checkpoint"):
        make_stream(FakeEpisodes(luck), num_tasks=30, curriculum="pass_rate", state=state)


async def test_tasks_at_which_attempts_fail_again_and_again_are_named(caplog: pytest.LogCaptureFixture) -> None:
    def decide(task: Task, seed: int, attempt: int) -> str | Failure:
        return BROKEN if task.id == "task-3" or (task.id == "task-5" and attempt == 0) else luck(task, seed, attempt)

    with caplog.at_level(logging.WARNING, logger="lzero.rollout.batch"):
        collected = await make_stream(FakeEpisodes(decide), filter="none", max_refills=0).take(0)
    (told,) = (record.getMessage() for record in caplog.records if "again and again" in record.getMessage())
    assert told.startswith(
        "update 0: attempts failed at 2 of 8 tasks, again and again at task-3 (4 of 4: engine); task-5"
    )
    assert collected.metrics["rollout/failing_tasks"] == 0.25
    assert collected.failing.worst[0].task == "task-3"
