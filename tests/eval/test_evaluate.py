"""Scores of held-out tasks."""

import itertools
import logging
from pathlib import Path

import pytest
from builders import make_run
from hypothesis import given
from hypothesis import strategies as st
from rollout_fakes import FakeEpisodes, Shuffler, Tasks, make_runner

from lzero.cli.eval import summary_rows
from lzero.config import AgentConfig, Config, RewardConfig
from lzero.errors import TrainError
from lzero.eval.evaluate import Evaluation, Evaluator
from lzero.rollout.summary import pass_at_k
from lzero.store import read_records
from lzero.types import Failure, Task

BROKEN = Failure(kind="repl", what="gone", where="step 0")


def config(num_tasks: int = 9, sampled_episodes: int = 0) -> Config:
    settings = {"num_tasks": num_tasks, "sampled_episodes": sampled_episodes, "top_p": 0.9}
    return Config.model_validate({"eval": settings, "rollout": {"temperature": 0.7}})


def evaluator(episodes: FakeEpisodes, settings: Config, *, num_tasks: int = 10**9, **rollout: float) -> Evaluator:
    return Evaluator(runner=make_runner(episodes, **rollout), source=Tasks(num_tasks), config=settings)


def samplings(evaluation: Evaluation) -> set[tuple[float, float]]:
    """Return (temperature, top_p) of the episodes."""
    found = [episode.sampling for record in evaluation.records for episode in record.episodes]
    return {(sampling.temperature, sampling.top_p) for sampling in found}


def right_on_one_hop(task: Task, seed: int, attempt: int) -> str:
    return "yes" if task.hops == 1 else "no"


async def test_the_greedy_score_is_exact_match_overall_and_by_hops() -> None:
    found = await evaluator(FakeEpisodes(right_on_one_hop, Shuffler(1)), config()).greedy()
    assert found.score == pytest.approx(1 / 3)
    assert found.score_by_hops == {1: 1.0, 2: 0.0, 3: 0.0}
    assert found.pass_at_k == {}
    assert samplings(found) == {(0.0, 1.0)}
    assert found.metrics["score"] == found.score
    assert found.metrics["score_1_hops"] == 1.0


async def test_sampled_episodes_give_sampled_exact_match_and_pass_at_k() -> None:
    def every_second(task: Task, seed: int, attempt: int) -> str:
        return "yes" if len(episodes.attempts) % 2 else "no"

    episodes = FakeEpisodes(every_second)
    found = await evaluator(episodes, config(num_tasks=2, sampled_episodes=4)).sampled()
    assert found.score == 0.5
    assert found.pass_at_k == {1: 0.5, 2: pytest.approx(5 / 6), 4: 1.0}
    assert found.num_episodes == 8
    assert samplings(found) == {(0.7, 0.9)}


async def test_a_source_with_fewer_tasks_is_used_whole() -> None:
    found = await evaluator(FakeEpisodes(right_on_one_hop), config(), num_tasks=4).greedy()
    assert found.num_tasks == 4


async def test_failed_episodes_are_left_out_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    def decide(task: Task, seed: int, attempt: int) -> str | Failure:
        return BROKEN if task.id == "task-1" else "yes"

    with caplog.at_level(logging.WARNING):
        found = await evaluator(FakeEpisodes(decide), config()).greedy()
    assert found.score == 1.0
    assert (found.num_failed, found.num_episodes) == (1, 9)
    assert "1 of 9 episodes failed twice and are not scored" in caplog.text
    assert found.metrics["num_failed"] == 1
    assert found.metrics["failures/repl"] == 2


async def test_an_evaluation_without_any_score_is_an_error() -> None:
    episodes = FakeEpisodes(lambda task, seed, attempt: BROKEN)
    with pytest.raises(TrainError, match=r"none of 9 episodes could be scored: repl 9\. Last: repl at step 0: gone"):
        await evaluator(episodes, config(), max_failure_rate=1.0).greedy()


async def test_evaluations_of_one_policy_are_the_same() -> None:
    first, second = [
        await evaluator(FakeEpisodes(right_on_one_hop, Shuffler(shuffle)), config()).greedy() for shuffle in (1, 2)
    ]
    assert first.records == second.records


async def test_evaluations_are_recorded(tmp_path: Path) -> None:
    settings = config(num_tasks=3, sampled_episodes=2)
    run = make_run(tmp_path / "run")
    greedy, sampled = await evaluator(FakeEpisodes(right_on_one_hop), settings).record(run, update=4)
    assert tuple(read_records(run.path, phase="eval")) == greedy.records
    assert tuple(read_records(run.path, phase="sampled")) == sampled.records
    assert [(line["phase"], line["update"], line["score"]) for line in run.read_metrics()] == [
        ("eval", 4, greedy.score),
        ("sampled", 4, sampled.score),
    ]


@given(num_episodes=st.integers(1, 7), data=st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_episode(num_episodes: int, data: st.DataObject) -> None:
    num_right = data.draw(st.integers(0, num_episodes))
    k = data.draw(st.integers(1, num_episodes))
    outcomes = [True] * num_right + [False] * (num_episodes - num_right)
    draws = list(itertools.combinations(outcomes, k))
    assert pass_at_k(num_episodes, num_right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@3 of 2"):
        pass_at_k(2, 1, 3)


def test_a_summary_names_the_budget_that_many_episodes_ran_out_of() -> None:
    shares = {"status/out_of_tokens": 0.75, "status/out_of_steps": 0.25, "rollout/cut_off": 0.6}
    found = Evaluation(
        phase="eval",
        score=0.0,
        score_by_hops={},
        pass_at_k={},
        num_tasks=4,
        num_episodes=4,
        num_failed=0,
        records=(),
        metrics={"rollout/steps_per_episode": 1.0, "score_low": 0.0, "score_high": 0.0, **shares},
    )
    config = Config(agent=AgentConfig(max_tokens=384, response_tokens=32))
    rows = summary_rows(found, config)
    assert rows[0][0] == "greedy EM"
    judged = config.model_copy(update={"reward": RewardConfig(function="mine:judge")})
    assert summary_rows(found, judged)[0][0] == "greedy score"
    assert ("greedy out of tokens", "75.0%", "of the episodes: raise agent.max_tokens = 384") in rows
    assert ("greedy out of steps", "25.0%", "of the episodes") in rows
    assert ("greedy replies cut off", "60.0%", "of the steps: raise agent.response_tokens = 32") in rows
