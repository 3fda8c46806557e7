"""What an update trains on: dynamic sampling, refills, and independence of timing."""

import random

import pytest
from rollout_fakes import FakeEpisodes, Shuffler, Tasks, make_episode, make_runner, make_task, reward

from lzero.config import RolloutConfig
from lzero.errors import TrainError
from lzero.rollout.collector import Collected, Collector, drop_reason, leave_out, take_back, tasks_to_try
from lzero.store import Record
from lzero.types import Failure, Json, Task

BROKEN = Failure(kind="engine", what="no answer", where="step 1, sampling")


def luck(task: Task, seed: int, attempt: int) -> str:
    """Right half of the time, by seed."""
    return "yes" if random.Random(seed).random() < 0.5 else "no"


def make_collector(
    episodes: FakeEpisodes, *, next_task: Json = 0, num_tasks: int = 10**9, **config: float
) -> Collector:
    settings = RolloutConfig.model_validate({"tasks_per_update": 8, "episodes_per_task": 2} | config)
    runner = make_runner(episodes, **settings.model_dump())
    return Collector(runner, Tasks(num_tasks), config=settings, seed=5, state={"next_task": next_task})


def make_record(*answers: str | None, position: int = 0, dropped: str = "") -> Record:
    task = make_task(position)
    episodes = tuple(
        make_episode(task, index=index, answer=answer, failure=BROKEN if answer is None else None)
        for index, answer in enumerate(answers)
    )
    rewards = tuple(None if episode.status == "failed" else reward(task, episode) for episode in episodes)
    return Record(task=task, episodes=episodes, rewards=rewards, dropped=dropped)


def what_happened(collected: Collected) -> object:
    """All but the clock."""
    metrics = {name: value for name, value in collected.metrics.items() if not name.endswith(("_s", "per_s"))}
    return collected.groups, collected.records, metrics


@pytest.mark.parametrize("shuffle", [1, 2, 3])
@pytest.mark.parametrize("concurrency", [1, 3, 100])
async def test_what_is_collected_does_not_depend_on_timing(shuffle: int, concurrency: int) -> None:
    plain = make_collector(FakeEpisodes(luck))
    shuffled = make_collector(FakeEpisodes(luck, Shuffler(shuffle)), concurrency=concurrency)
    for update in range(3):
        assert what_happened(await shuffled.collect(update)) == what_happened(await plain.collect(update))
    assert shuffled.state == plain.state


async def test_dropped_groups_are_refilled() -> None:
    collected = await make_collector(FakeEpisodes(luck), drop_uniform=1.0, max_refills=20).collect(0)
    assert len(collected.groups) == 8
    assert all({reward.score for reward in group.rewards} == {0.0, 1.0} for group in collected.groups)
    reasons = {record.dropped for record in collected.records}
    assert {"", "all_zero", "all_one"} <= reasons <= {"", "all_zero", "all_one", "surplus"}
    assert collected.metrics["groups/kept"] == 8
    assert collected.metrics["groups/all_one"] == sum(record.dropped == "all_one" for record in collected.records)


async def test_refills_are_bounded_and_then_the_last_drops_are_taken_back() -> None:
    episodes = FakeEpisodes(lambda task, seed, attempt: "yes")
    collected = await make_collector(episodes, drop_uniform=1.0, max_refills=2).collect(0)
    assert len(collected.records) == 24
    assert [group.task.id for group in collected.groups] == [f"task-{position}" for position in range(16, 24)]
    assert collected.metrics["groups/taken_back"] == 8


async def test_without_dynamic_sampling_nothing_is_dropped() -> None:
    collected = await make_collector(FakeEpisodes(lambda task, seed, attempt: "no"), drop_uniform=0.0).collect(0)
    assert len(collected.records) == len(collected.groups) == 8


async def test_a_resumed_collector_goes_on_where_the_first_stopped() -> None:
    whole = make_collector(FakeEpisodes(luck))
    await whole.collect(0)
    resumed = make_collector(FakeEpisodes(luck), next_task=whole.state["next_task"])
    assert what_happened(await resumed.collect(1)) == what_happened(await whole.collect(1))


async def test_tasks_that_are_used_up_start_over_with_other_seeds() -> None:
    collected = await make_collector(FakeEpisodes(luck), num_tasks=4, drop_uniform=0.0).collect(0)
    assert [group.task.id for group in collected.groups] == [f"task-{position % 4}" for position in range(8)]
    assert len({episode.id for group in collected.groups for episode in group.episodes}) == 16
    assert len({episode.seed for group in collected.groups for episode in group.episodes}) == 16


async def test_groups_that_failures_emptied_are_refilled_and_counted() -> None:
    def decide(task: Task, seed: int, attempt: int) -> str | Failure:
        return BROKEN if task.id == "task-3" else luck(task, seed, attempt)

    collected = await make_collector(FakeEpisodes(decide), drop_uniform=0.0).collect(0)
    assert [group.task.id for group in collected.groups] == [
        f"task-{position}" for position in (0, 1, 2, 4, 5, 6, 7, 8)
    ]
    assert collected.metrics["groups/too_few"] == 1
    assert collected.metrics["failures/engine"] == 4
    assert collected.metrics["rollout/episodes"] == 16, "failed episodes are in no mean"


async def test_an_update_without_any_group_is_an_error() -> None:
    episodes = FakeEpisodes(lambda task, seed, attempt: BROKEN)
    with pytest.raises(TrainError, match="every one of 24 groups lost its episodes"):
        await make_collector(episodes, max_failure_rate=1.0, max_refills=2).collect(0)


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
