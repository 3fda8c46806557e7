"""Scores of held-out tasks."""

import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_fakes import FakeEpisodes, Shuffler, Tasks, make_runner

from lzero.config import Config
from lzero.errors import TrainError
from lzero.eval.evaluate import Evaluation, evaluate, evaluate_sampled, evaluation_metrics, pass_at_k
from lzero.types import Failure, Task

BROKEN = Failure(kind="repl", what="gone", where="step 0")


def config(num_tasks: int = 9, sampled_episodes: int = 0) -> Config:
    settings = {"num_tasks": num_tasks, "sampled_episodes": sampled_episodes}
    return Config.model_validate({"eval": settings, "rollout": {"temperature": 0.7}})


def temperatures(evaluation: Evaluation) -> set[float]:
    return {episode.sampling.temperature for record in evaluation.records for episode in record.episodes}


def right_on_one_hop(task: Task, seed: int, attempt: int) -> str:
    return "yes" if task.hops == 1 else "no"


async def test_the_greedy_score_is_exact_match_overall_and_by_hops() -> None:
    runner = make_runner(FakeEpisodes(right_on_one_hop, Shuffler(1)))
    found = await evaluate(runner, Tasks(), config())
    assert found.score == pytest.approx(1 / 3)
    assert found.score_by_hops == {1: 1.0, 2: 0.0, 3: 0.0}
    assert found.pass_at_k == {}
    assert temperatures(found) == {0.0}
    metrics = evaluation_metrics(found)
    assert metrics["score"] == found.score
    assert metrics["score_1_hops"] == 1.0


async def test_sampled_episodes_give_sampled_exact_match_and_pass_at_k() -> None:
    def every_second(task: Task, seed: int, attempt: int) -> str:
        return "yes" if len(episodes.attempts) % 2 else "no"

    episodes = FakeEpisodes(every_second)
    found = await evaluate_sampled(make_runner(episodes), Tasks(), config(num_tasks=2, sampled_episodes=4))
    assert found.score == 0.5
    assert found.pass_at_k == {1: 0.5, 2: pytest.approx(5 / 6), 4: 1.0}
    assert found.num_episodes == 8
    assert temperatures(found) == {0.7}


async def test_a_source_with_fewer_tasks_is_used_whole() -> None:
    found = await evaluate(make_runner(FakeEpisodes(right_on_one_hop)), Tasks(4), config())
    assert found.num_tasks == 4


async def test_failed_episodes_are_left_out_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    def decide(task: Task, seed: int, attempt: int) -> str | Failure:
        return BROKEN if task.id == "task-1" else "yes"

    with caplog.at_level(logging.WARNING):
        found = await evaluate(make_runner(FakeEpisodes(decide)), Tasks(), config())
    assert found.score == 1.0
    assert (found.num_failed, found.num_episodes) == (1, 9)
    assert "1 of 9 episodes failed twice and are left out: repl 2" in caplog.text
    assert evaluation_metrics(found)["num_failed"] == 1


async def test_an_evaluation_without_any_score_is_an_error() -> None:
    runner = make_runner(FakeEpisodes(lambda task, seed, attempt: BROKEN), max_failure_rate=1.0)
    with pytest.raises(TrainError, match="none of 9 episodes could be scored: repl 18"):
        await evaluate(runner, Tasks(), config())


async def test_evaluations_of_one_policy_are_the_same() -> None:
    first, second = [
        await evaluate(make_runner(FakeEpisodes(right_on_one_hop, Shuffler(shuffle))), Tasks(), config())
        for shuffle in (1, 2)
    ]
    assert first == second


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
