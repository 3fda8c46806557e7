"""The failure policy: what the agent did is scored, what we broke is tried once more, counted, and stops the run when it is too much."""

import threading

import pytest
from builders import numbered_task
from rollout_fakes import FakeEpisodes, Shuffler, make_runner

from lzero.config import RolloutConfig
from lzero.errors import RewardError, TrainError
from lzero.rollout.concurrency import run_all
from lzero.rollout.failures import KINDS, WINDOW, WORST, Failing, TaskFailures, by_task
from lzero.rollout.runner import MOVES, Runner
from lzero.rollout.scoring import Scorer
from lzero.store import Record
from lzero.types import Episode, Failure, Reward, Sampling, Task

BROKEN = Failure(kind="repl", what="zygote died", where="step 0, running a cell")


async def record(runner: Runner, *, num_episodes: int = 1, position: int = 0, seed: int = 7) -> Record:
    return await runner.record(
        numbered_task(position), name=f"train-0/{position}", num_episodes=num_episodes, sampling=Sampling(), seed=seed
    )


async def test_wrong_answers_are_scored() -> None:
    found = await record(make_runner(FakeEpisodes(lambda task, seed, attempt: "no")))
    assert found.scores == (0.0,)


async def test_what_we_broke_is_tried_once_more_under_the_same_seed() -> None:
    seeds = []

    def decide(task: Task, seed: int, attempt: int) -> str | Failure:
        seeds.append(seed)
        return BROKEN if attempt == 0 else "yes"

    episodes = FakeEpisodes(decide)
    runner = make_runner(episodes)
    found = await record(runner)
    assert found.scores == (1.0,)
    assert episodes.attempts == ["train-0/0/0"] * 2
    assert seeds[0] == seeds[1]
    assert runner.take_failures().kinds["repl"] == 1, "a failure that was mended counts, too"


async def test_a_lost_pool_server_costs_no_attempt_and_does_not_count_towards_the_failure_limit() -> None:
    lost = Failure(kind="pool", what="the pool server ws://a:1 was lost", where="step 0, running a cell")
    endings: list[str | Failure] = [*(lost for _ in range(MOVES)), BROKEN, "yes"]
    runner = make_runner(FakeEpisodes(lambda task, seed, attempt: endings[attempt]), max_failure_rate=1 / WINDOW)
    assert (await record(runner)).scores == (1.0,)
    assert {kind: count for kind, count in runner.take_failures().kinds.items() if count} == {"pool": MOVES, "repl": 1}
    always = FakeEpisodes(lambda task, seed, attempt: lost)
    found = await record(make_runner(always))
    assert (found.rewards, len(always.attempts)) == ((None,), MOVES + 2)
    with pytest.raises(TrainError, match="pool 1"):
        await record(make_runner(always, max_failure_rate=0.0), position=1)


async def test_what_breaks_twice_is_kept_without_a_reward() -> None:
    episodes = FakeEpisodes(lambda task, seed, attempt: BROKEN)
    runner = make_runner(episodes)
    found = await record(runner)
    assert found.rewards == (None,)
    assert found.group().episodes == ()
    assert len(episodes.attempts) == 2
    assert {kind: count for kind, count in runner.take_failures().kinds.items() if count} == {"repl": 2}
    assert runner.take_failures().kinds["repl"] == 0


async def test_a_reward_function_that_fails_is_our_failure_and_is_not_asked_again() -> None:
    def broken_reward(task: Task, episode: Episode) -> Reward:
        raise RewardError("no such metric")

    episodes = FakeEpisodes(lambda task, seed, attempt: "yes")
    runner = Runner(episodes, Scorer(broken_reward), RolloutConfig())
    (episode,) = (await record(runner)).episodes
    assert episode.failure is not None
    assert (episode.failure.kind, episode.failure.where) == ("reward", "scoring task task-0")
    assert "no such metric" in episode.failure.what
    assert len(episodes.attempts) == 1
    assert runner.take_failures().kinds["reward"] == 1


async def test_an_episode_that_is_scored_holds_no_place_of_one_that_could_run() -> None:
    both = threading.Barrier(2, timeout=30)  # two calls of the reward at once, though one episode runs at a time

    def judge(task: Task, episode: Episode) -> float:
        both.wait()
        return 1.0

    episodes = FakeEpisodes(lambda task, seed, attempt: "yes")
    runner = Runner(episodes, Scorer(judge), RolloutConfig(concurrency=1))
    assert (await record(runner, num_episodes=2)).scores == (1.0, 1.0)


async def test_too_many_failures_stop_the_run_and_say_why() -> None:
    runner = make_runner(FakeEpisodes(lambda task, seed, attempt: BROKEN), max_failure_rate=0.25)
    with pytest.raises(
        TrainError,
        match=r"17 of the last 17 episodes failed: repl 17\. Last: repl at step 0, running a cell: zygote died",
    ):
        await run_all(record(runner, position=position) for position in range(100))


async def test_old_failures_are_forgotten() -> None:
    runner = make_runner(
        FakeEpisodes(lambda task, seed, attempt: BROKEN if task.id == "task-0" else "yes"), max_failure_rate=0.1
    )
    for _ in range(4):
        await record(runner, position=0)
        await run_all(record(runner, position=position) for position in range(1, WINDOW))
    assert runner.take_failures().kinds["repl"] == 8


async def test_episodes_that_run_at_once_are_bounded() -> None:
    episodes = FakeEpisodes(lambda task, seed, attempt: "yes", Shuffler(0))
    runner = make_runner(episodes, concurrency=5)
    await run_all(record(runner, num_episodes=4, position=position) for position in range(6))
    assert episodes.most_running == 5
    assert len(episodes.attempts) == 24


async def test_the_scenes_of_a_group_have_one_seed() -> None:
    episodes = FakeEpisodes(lambda task, seed, attempt: "yes", Shuffler(0))
    await record(make_runner(episodes), num_episodes=4)
    (seeds,) = episodes.seeds.values()
    assert len(seeds) == 1


async def test_episodes_of_a_group_have_seeds_of_their_own() -> None:
    found = await record(make_runner(FakeEpisodes(lambda task, seed, attempt: "yes")), num_episodes=3)
    assert len({episode.seed for episode in found.episodes}) == 3
    assert [episode.index for episode in found.episodes] == [0, 1, 2]
    again = await record(make_runner(FakeEpisodes(lambda task, seed, attempt: "yes")), num_episodes=3)
    assert again == found


async def test_the_first_error_cancels_what_still_runs() -> None:
    shuffler = Shuffler(3)
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await shuffler.turn()
            if name == "bad":
                raise TrainError("bad")
            await shuffler.turn()
        finally:
            ended.append(name)

    with pytest.raises(TrainError, match="bad"):
        await run_all(work(name) for name in ("a", "bad", "b"))
    assert sorted(ended) == ["a", "b", "bad"]


async def test_failed_attempts_are_counted_by_task_the_worst_first() -> None:
    def decide(task: Task, seed: int, attempt: int) -> str | Failure:
        if task.id == "task-0":
            return BROKEN
        return BROKEN if task.id in ("task-1", "task-2") and attempt == 0 else "yes"

    runner = make_runner(FakeEpisodes(decide), max_failure_rate=1.0)
    for position in range(10):
        await record(runner, position=position, num_episodes=2)
    found = runner.take_failures()
    assert (found.attempts, found.failed_attempts, found.tasks, found.failing_tasks) == (26, 8, 10, 3)
    shares = {"rollout/failed_attempts": 8 / 26, "rollout/failing_tasks": 0.3}
    assert found.metrics() == shares | {f"failures/{kind}": 8.0 * (kind == "repl") for kind in KINDS}
    assert [str(each) for each in found.worst] == [
        "task-0 (4 of 4: repl)",
        "task-1 (2 of 4: repl)",
        "task-2 (2 of 4: repl)",
    ]
    assert [each.often for each in found.worst] == [True, True, True]
    assert found.line()["failing_tasks"][0] == {"task": "task-0", "attempts": 4, "failed": 4, "kinds": {"repl": 4}}  # type: ignore[index]
    assert runner.take_failures() == Failing(kinds=dict.fromkeys(KINDS, 0)), "a failure is returned once"


def test_only_a_few_of_the_failing_tasks_are_named_and_several_updates_are_added_up() -> None:
    lines = [TaskFailures(task=f"t{index}", attempts=4, failed=index, kinds={"tool": index}) for index in range(9)]
    found = by_task([*lines, *lines, TaskFailures(task="t1", attempts=4, failed=40, kinds={"lost": 40})])
    assert (found.tasks, found.failing_tasks, len(found.worst)) == (9, 8, WORST)
    assert str(found.worst[0]) == "t1 (42 of 12: lost, tool)"
    assert [each.task for each in found.worst[1:]] == ["t8", "t7", "t6", "t5"]
