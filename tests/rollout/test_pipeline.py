"""Sampling ahead of the learner: how far, in which order, and after a kill."""

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import virtual_time
from builders import make_completion, make_episode, make_record, make_step, reward_of
from rollout_fakes import Tasks

from lzero.agent.setting import Ticket
from lzero.config import RolloutConfig
from lzero.errors import StoreError, TrainError
from lzero.rollout.batch import Collected, token_lags
from lzero.rollout.curriculum import PassRates
from lzero.rollout.pipeline import PipelinedStream
from lzero.rollout.runner import Runner
from lzero.rollout.scoring import Scorer
from lzero.rollout.stream import read_state
from lzero.store.finished import FinishedGroup, FinishedGroups
from lzero.types import Episode, Failure, Json, Task, ToolCall

GROUPS = 4
LEARN_S = 10.0


@dataclass
class Policy:
    """The engine's policy version, and the episodes that ran under it."""

    version: int = 0
    begun: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    most_groups: int = 0


class Episodes:
    """Runs episodes of a few steps, some of them long, which tell the version that drew each token. `chances`: of a right answer."""

    def __init__(self, policy: Policy, *, chance: float = 0.5, longest_s: float = 60.0, failing: int = -1) -> None:
        self._policy, self._chance, self._longest_s, self._failing = policy, chance, longest_s, failing

    async def __call__(self, task: Task, ticket: Ticket, *, seed: int) -> Episode:
        dice, policy = random.Random(ticket.seed), self._policy
        policy.begun.append(ticket.id)
        policy.running.add(ticket.id)
        policy.most_groups = max(policy.most_groups, len({name.rpartition("/")[0] for name in policy.running}))
        try:
            steps = []
            for _ in range(dice.randint(1, 3)):
                await asyncio.sleep(dice.choice((1.0, 1.0, 2.0, self._longest_s)) * dice.random())
                steps.append(make_step(make_completion((3, 4), version=policy.version)))
        finally:
            policy.running.discard(ticket.id)
        same: dict[str, Any] = {
            "task_id": task.id,
            "index": ticket.index,
            "sampling": ticket.sampling,
            "seed": ticket.seed,
        }
        if ticket.id.startswith(f"train/{self._failing}/"):
            failure = Failure(kind="engine", what="no answer", where="step 1, sampling")
            return make_episode(*steps, name=ticket.id, status="failed", failure=failure, answer=None, **same)
        answer = "yes" if dice.random() < self._chance else "no"
        return make_episode(*steps, name=ticket.id, status="finished", answer=answer, **same)


def make_stream(
    directory: Path,
    episodes: Episodes,
    *,
    updates: int = 12,
    num_tasks: int = 10**9,
    state: Mapping[str, Json] = MappingProxyType({}),
    **config: Any,
) -> PipelinedStream:
    settings = RolloutConfig.model_validate(
        {"tasks_per_update": GROUPS, "episodes_per_task": 2, "max_lag": 1, "filter": "none"} | config
    )
    return PipelinedStream(
        Runner(episodes, Scorer(reward_of, is_quick=lambda task, episode: True), settings),
        Tasks(num_tasks),
        config=settings,
        seed=5,
        updates=updates,
        finished=FinishedGroups(directory),
        state=state,
    )


async def train(stream: PipelinedStream, policy: Policy, *, updates: int, learn_s: float = LEARN_S) -> list[Collected]:
    """Learn from one batch after another, as the loop does. Learning changes nothing but the version."""
    batches = []
    stream.published(policy.version)
    try:
        while policy.version < updates:
            batches.append(await stream.take(policy.version))
            await asyncio.sleep(learn_s)
            policy.version += 1
            stream.published(policy.version)
    finally:
        await stream.close()
    return batches


def positions(batches: list[Collected]) -> list[int]:
    """Return the positions of the groups that were trained on or dropped, in order."""
    return [int(record.episodes[0].id.split("/")[1]) for batch in batches for record in batch.records]


@pytest.mark.parametrize("max_lag", [1, 2, 3])
@pytest.mark.parametrize("chosen", [{}, {"filter": "dapo"}, {"filter": "l0", "max_refills": 1}])
def test_no_token_is_older_than_the_lag_and_nothing_finished_is_thrown_away(
    tmp_path: Path, max_lag: int, chosen: dict[str, Any]
) -> None:
    policy = Policy()
    stream = make_stream(tmp_path, Episodes(policy), max_lag=max_lag, **chosen)
    batches = virtual_time.run(train(stream, policy, updates=12))
    lags = [token_lags(batch.groups, update) for update, batch in enumerate(batches)]
    assert max(max(each) for each in lags) == max_lag
    assert min(min(each) for each in lags) >= 0
    assert [batch.metrics["rollout/lag_max"] for batch in batches] == [max(each) for each in lags]
    assert all(len(batch.groups) == GROUPS for batch in batches)
    taken = positions(batches)
    assert taken == list(range(len(taken))), "in the order in which they were begun"
    assert policy.most_groups <= (max_lag + 1) * GROUPS
    left = {int(name.split("/")[1]) for name in policy.begun} - set(taken)
    assert len(left) == 0 if not chosen else len(left) < GROUPS, "the last updates begin nothing that nobody trains on"


def test_episodes_run_while_the_learner_learns(tmp_path: Path) -> None:
    async def seconds(max_lag: int) -> float:
        policy = Policy()
        stream = make_stream(tmp_path / str(max_lag), Episodes(policy, longest_s=15.0), max_lag=max_lag, updates=20)
        await train(stream, policy, updates=20)
        return asyncio.get_running_loop().time()

    for max_lag in (0, 1):
        (tmp_path / str(max_lag)).mkdir()
    assert virtual_time.run(seconds(0)) > 1.5 * virtual_time.run(seconds(1))


def test_one_batch_of_long_episodes_holds_up_no_sampling(tmp_path: Path) -> None:
    """The groups after a straggler are finished and stored while the learner waits for it."""

    async def ready() -> float:
        policy = Policy()
        stream = make_stream(tmp_path, Episodes(policy, longest_s=1000.0))
        stream.published(0)
        batch = await stream.take(0)
        await stream.close()
        return batch.metrics["groups/ready"]

    assert virtual_time.run(ready()) > 0


def test_a_dropped_group_frees_its_place_at_once(tmp_path: Path) -> None:
    async def begun() -> tuple[int, int]:
        policy = Policy()
        stream = make_stream(tmp_path, Episodes(policy, chance=1.0), filter="dapo", max_refills=2)
        stream.published(0)
        with pytest.raises(TrainError, match="none of 24 groups is left to train on"):
            await stream.take(0)
        await stream.close()
        return len(policy.begun), policy.most_groups

    assert virtual_time.run(begun()) == (2 * 2 * GROUPS * 3, 2 * GROUPS)


def test_a_lower_limit_holds_for_groups_that_begin_later(tmp_path: Path) -> None:
    async def lags() -> list[float]:
        policy = Policy()
        stream = make_stream(tmp_path, Episodes(policy), max_lag=2)
        stream.published(0)
        found = []
        for update in range(12):
            batch = await stream.take(update)
            if update == 4:
                stream.limit(0)
            await asyncio.sleep(LEARN_S)
            policy.version = update + 1
            stream.published(update + 1)
            found.append(batch.metrics["rollout/lag_max"])
        assert stream.state["max_lag"] == stream.max_lag == 0
        return found

    found = virtual_time.run(lags())
    assert max(found[:7]) == 2
    assert set(found[7:]) == {0.0}


def test_an_error_of_a_later_group_ends_the_wait_for_the_first(tmp_path: Path) -> None:
    policy = Policy()
    episodes = Episodes(policy, failing=GROUPS + 1)
    stream = make_stream(tmp_path, episodes, max_failure_rate=0.0)
    with pytest.raises(TrainError, match="episodes failed"):
        virtual_time.run(train(stream, policy, updates=12))
    assert not policy.running, "the others are cancelled"


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("chosen", [{}, {"filter": "dapo"}])
def test_a_killed_run_repeats_its_order_with_the_same_groups_and_loses_nothing(
    tmp_path: Path, every: int, chosen: dict[str, Any]
) -> None:
    """Kill a run at random moments. `every`: updates between checkpoints."""
    updates, dice = 12, random.Random(7)
    trained: dict[int, list[Collected]] = {}
    policy, saved = Policy(), (0, MappingProxyType[str, Json]({}))

    async def life(seconds: float) -> None:
        nonlocal saved
        policy.version, state = saved
        stream = make_stream(tmp_path, Episodes(policy), updates=updates, state=state, **chosen)
        stream.published(policy.version)
        try:
            async with asyncio.timeout(seconds):
                while policy.version < updates:
                    trained.setdefault(policy.version, []).append(await stream.take(policy.version))
                    await asyncio.sleep(LEARN_S)
                    policy.version += 1
                    state = json.loads(json.dumps(stream.state))
                    if policy.version % every == 0 or policy.version == updates:
                        await stream.saved(saved[1])
                        saved = policy.version, MappingProxyType(state)
                    stream.published(policy.version)
        except TimeoutError:
            await stream.close()

    lives = 0
    while saved[0] < updates:
        before = set(FinishedGroups(tmp_path).positions())
        policy.begun.clear()
        virtual_time.run(life(dice.uniform(20.0, 120.0)))
        again = {int(name.split("/")[1]) for name in policy.begun}
        assert not before & again, "a finished group does not run again"
        lives += 1
    assert lives > 3
    assert sorted(trained) == list(range(updates))
    for update, batches in trained.items():
        assert all(batch.records == batches[0].records for batch in batches), f"update {update} took other groups"
        lags = token_lags(batches[-1].groups, update)
        assert min(lags) >= 0
        assert max(lags) <= 1
    taken = positions([batches[-1] for batches in trained.values()])
    assert taken == list(range(len(taken))), "each group once, in order"
    assert len(FinishedGroups(tmp_path).positions()) <= (every + 2) * 3 * GROUPS, (
        "groups that no resume needs are removed"
    )


def test_the_curriculum_reads_scores_in_the_order_of_training(tmp_path: Path) -> None:
    policy = Policy()
    stream = make_stream(tmp_path, Episodes(policy), curriculum="pass_rate", num_tasks=50, updates=6)
    (*_, last) = virtual_time.run(train(stream, policy, updates=6))
    rates = PassRates(50)
    trained: list[Collected] = []
    replayed = make_stream(tmp_path, Episodes(Policy()), curriculum="pass_rate", num_tasks=50, updates=6)

    async def again() -> None:
        for update in range(6):
            trained.append(await replayed.take(update))
            replayed.published(update + 1)

    virtual_time.run(again())
    for record in (record for batch in trained for record in batch.records):
        rates.saw(int(record.task.id.removeprefix("task-")), record.scores)
    assert stream.state["pass_rates"] == replayed.state["pass_rates"] == rates.state()
    assert last.metrics["curriculum/tried"] > 0


def take_all(directory: Path, episodes: Episodes, updates: range, **options: Any) -> list[Collected]:
    """Take the batches of these updates in a new stream, which is killed then: it saves no state."""

    async def life() -> list[Collected]:
        stream, batches = make_stream(directory, episodes, **options), []
        stream.published(0)
        for update in updates:
            batches.append(await stream.take(update))
            stream.published(update + 1)
        await stream.close()
        return batches

    return virtual_time.run(life())


def test_groups_that_failures_have_emptied_are_tried_again_by_a_resumed_run(tmp_path: Path) -> None:
    class Broken(Episodes):
        async def __call__(self, task: Task, ticket: Ticket, *, seed: int) -> Episode:
            failure = Failure(kind="engine", what="no answer", where="step 1, sampling")
            return make_episode(
                name=ticket.id, index=ticket.index, status="failed", failure=failure, answer=None, task_id=task.id
            )

    options: dict[str, Any] = {"max_failure_rate": 1.0, "max_refills": 1}
    with pytest.raises(TrainError, match="all 16 groups lost their episodes to failures"):
        take_all(tmp_path, Broken(Policy()), range(1), **options)
    (batch,) = take_all(tmp_path, Episodes(Policy()), range(1), **options)
    assert positions([batch]) == list(range(GROUPS))


def test_a_cancellation_from_within_an_episode_ends_the_wait(tmp_path: Path) -> None:
    class Cancelled(Episodes):
        async def __call__(self, task: Task, ticket: Ticket, *, seed: int) -> Episode:
            raise asyncio.CancelledError

    async def take() -> None:
        stream = make_stream(tmp_path, Cancelled(Policy()))
        stream.published(0)
        async with asyncio.timeout(1000.0):
            await stream.take(0)

    with pytest.raises(asyncio.CancelledError):
        virtual_time.run(take())


def test_any_value_that_an_agent_passes_to_a_tool_can_be_stored(tmp_path: Path) -> None:
    call = ToolCall(
        name="search", arguments={"query": 10**30}, duration_s=0.1, error="query: not a text", fault="agent"
    )
    record = make_record(make_episode(make_step(tool_calls=(call,))))
    groups = FinishedGroups(tmp_path)
    groups.write(3, FinishedGroup(index=0, record=record))
    assert groups.read(3).record == record


def test_a_damaged_group_that_was_removed_runs_again_with_all_that_came_after_it(tmp_path: Path) -> None:
    first = take_all(tmp_path, Episodes(Policy()), range(4), filter="dapo")
    ends = [line["end"] for line in map(json.loads, (tmp_path / "order.jsonl").read_text().splitlines())]
    (tmp_path / "finished" / f"{ends[1]:06d}.json").unlink()
    policy = Policy()
    second = take_all(tmp_path, Episodes(policy, chance=0.3), range(4), filter="dapo")
    assert [batch.records for batch in second[:2]] == [batch.records for batch in first[:2]]
    assert min(int(name.split("/")[1]) for name in policy.begun) == ends[1]
    assert all(len(batch.groups) == GROUPS for batch in second), "whole batches, whatever the first run has recorded"
    third = take_all(tmp_path, Episodes(Policy()), range(4), filter="dapo")
    assert [batch.records for batch in third] == [batch.records for batch in second]


def test_what_a_crash_truncated_is_left_out(tmp_path: Path) -> None:
    first = take_all(tmp_path, Episodes(Policy()), range(3))
    file = tmp_path / "order.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    partial = tmp_path / "finished" / ".000041.json.x3k"
    partial.touch()
    second = take_all(tmp_path, Episodes(Policy()), range(3))
    assert [batch.records for batch in second] == [batch.records for batch in first]
    assert file.read_bytes() == whole
    assert not partial.exists()


def test_a_resumed_curriculum_draws_no_task_twice(tmp_path: Path) -> None:
    """The checkpoint is older than the groups, so those that ran when the run was killed are drawn again."""
    options: dict[str, Any] = {"curriculum": "pass_rate", "num_tasks": 2 * GROUPS}
    groups = FinishedGroups(tmp_path)
    for position, index in ((0, 1), (2 * GROUPS - 1, 3)):
        groups.write(position, FinishedGroup(index=index, record=make_record("yes", "no", position=index)))
    state = read_state(make_stream(tmp_path, Episodes(Policy()), **options).state)
    assert sorted(index for _, index in state.begun) == list(range(2 * GROUPS))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("finished/000000.json", b"{}", "the finished group .* is damaged or was changed"),
        ("finished/999999999999.json", b"{}", "the finished group .* is damaged or was changed"),
        ("order.jsonl", b'{"update": 0}\n', "order.jsonl is damaged or was changed"),
        ("order.jsonl", b"\xff\n", "order.jsonl is damaged or was changed"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    FinishedGroups(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StoreError, match=message):
        make_stream(tmp_path, Episodes(Policy()))
