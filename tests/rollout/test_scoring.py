"""Whatever a reward function returns or does, the caller gets a Reward of floats, or a RewardError that names the function."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from builders import make_attempt, make_step, numbered_task

from lzero.agent import user_code
from lzero.config import load_config
from lzero.errors import ConfigError, RewardError
from lzero.rewards.validation import as_reward
from lzero.rollout import scoring
from lzero.rollout.compose import open_scorer
from lzero.rollout.scoring import Scorer
from lzero.types import Episode, Reward, Task

TASK = numbered_task()
EPISODE = make_attempt(TASK)
TWO_STEPS = msgspec.structs.replace(EPISODE, steps=(make_step(), make_step()))


@pytest.mark.parametrize(
    "half",
    [
        0.5,
        np.float64(0.5),
        np.float32(0.5),
        np.mean([1, 0]),
        np.array(0.5),
        Decimal("0.5"),
        Fraction(1, 2),
        torch.tensor(0.5),
    ],
    ids=lambda half: type(half).__name__,
)
def test_a_number_of_any_real_type_becomes_a_float(half: Any) -> None:
    reward = as_reward(Reward(score=half, per_step=(half,), parts={"qa": (half,)}), num_steps=1)
    assert reward == Reward(score=0.5, per_step=(0.5,), parts={"qa": (0.5,)})
    assert {type(value) for value in (reward.score, *reward.per_step, *reward.parts["qa"])} == {float}
    assert msgspec.json.decode(msgspec.json.encode(reward), type=Reward) == reward
    assert as_reward(half, num_steps=1).score == 0.5


def test_steps_may_come_in_any_sequence() -> None:
    steps: list[Any] = [[0.5, True], np.array([0.5, 1]), torch.tensor([0.5, 1.0]), (value for value in (0.5, 1))]
    for values in steps:
        assert as_reward(Reward(score=1, per_step=values, parts={}), num_steps=2).per_step == (0.5, 1.0)


def test_a_number_is_a_score_that_is_paid_on_the_last_step() -> None:
    assert as_reward(True, num_steps=3) == Reward(
        score=1.0, per_step=(0.0, 0.0, 1.0), parts={"reward": (0.0, 0.0, 1.0)}
    )
    assert as_reward(0.25, num_steps=0) == Reward(score=0.25, per_step=(), parts={"reward": ()})
    assert as_reward(1 + 1e-12, num_steps=1).per_step == (1.0,)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError


def raises(error: BaseException) -> Callable[[Task, Episode], float]:
    def judge(task: Task, episode: Episode) -> float:
        raise error

    return judge


def broken_iterator() -> Iterator[float]:
    yield 0.5
    raise KeyError("late")


def returns(value: Any) -> Callable[[Task, Episode], Any]:
    return lambda task, episode: value


async def strange(task: Task, episode: Episode) -> float:
    raise SystemExit(3)


async def cancelled(task: Task, episode: Episode) -> float:
    raise asyncio.CancelledError


async def nothing(task: Task, episode: Episode) -> None:
    return None


def made(score: Any = 1.0, per_step: Any = (1.0,), parts: Any = None) -> Callable[[Task, Episode], Any]:
    return returns(Reward(score=score, per_step=per_step, parts={} if parts is None else parts))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (returns(None), "returned None: return a Reward, or a number"),
        (returns("0.5"), "returned a str, which is no real number"),
        (returns(1j), "returned a complex, which is no real number"),
        (returns(np.complex128(1)), "returned a numpy.complex128, which is no real number"),
        (returns(np.array([0.5])), r"returned a numpy.ndarray of shape \(1,\), which is no real number"),
        (returns({"score": 1.0}), "returned a dict: return a Reward"),
        (returns(float("nan")), "returned nan, which is not finite"),
        (returns(10**400), "which float.. refuses"),
        (returns(7), "returned 7: a score is from 0 to 1"),
        (returns(-1), "returned -1: a score is from 0 to 1"),
        (made(score=None), "a score that is None"),
        (made(score=torch.zeros(2)), r"a score that is a torch.Tensor of shape \(2,\)"),
        (made(per_step=1.0), "per_step that is a float: give a number a step"),
        (made(per_step=(1.0, 1.0)), "returned 2 numbers in per_step for 1 steps"),
        (made(per_step=(float("inf"),)), "not finite"),
        (made(per_step=(1e300,)), "the largest magnitude is 1e"),
        (made(per_step=broken_iterator()), "raised KeyError: 'late'"),
        (made(parts={"qa": ()}), "0 numbers in part 'qa' for 1 steps"),
        (made(parts={"a b": (1.0,)}), "a part named 'a b'"),
        (made(parts={"total": (1.0,)}), "a part named 'total'"),
        (made(parts=[1.0]), "parts that are a list"),
        (raises(ValueError("no float: 'Kato'")), r"raised ValueError: no float: 'Kato' \(test_scoring.py, line \d+\)"),
        (raises(SystemExit(1)), "raised SystemExit: 1"),
        (raises(KeyboardInterrupt()), "raised KeyboardInterrupt"),
        (raises(StopIteration()), "raised StopIteration"),
        (raises(Unprintable()), "raised test_scoring.Unprintable"),
        (strange, "test_scoring:strange raised SystemExit: 3"),
        (cancelled, "raised asyncio.exceptions.CancelledError"),
        (nothing, "returned None"),
    ],
)
async def test_what_is_no_reward_is_an_error_that_says_what_it_is(function: Callable[..., Any], told: str) -> None:
    with pytest.raises(RewardError, match=told):
        await Scorer(function).score(TASK, EPISODE)


async def test_an_async_function_is_awaited() -> None:
    async def judge(task: Task, episode: Episode) -> float:
        await asyncio.sleep(0)
        return 0.5

    assert (await Scorer(judge).score(TASK, TWO_STEPS)).per_step == (0.0, 0.5)
    assert (await Scorer(lambda task, episode: judge(task, episode)).score(TASK, EPISODE)).score == 0.5


async def test_slow_functions_run_beside_each_other_and_beside_the_event_loop() -> None:
    barrier = threading.Barrier(24, timeout=60)  # broken, unless all calls run at once

    def slow_judge(task: Task, episode: Episode) -> float:
        barrier.wait()
        return 1.0

    scorer = Scorer(slow_judge)
    rewards = await asyncio.gather(*(scorer.score(TASK, EPISODE) for _ in range(24)))
    assert [reward.score for reward in rewards] == [1.0] * 24


async def test_a_function_that_hangs_fails_at_its_deadline_and_is_not_called_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "MAX_HUNG", 2)
    ended = threading.Event()
    scorer = Scorer(lambda task, episode: float(ended.wait(60)), timeout_s=0.01)
    for _ in range(2):
        with pytest.raises(RewardError, match=r"did not return within reward.timeout_s = 0\.01 s"):
            await scorer.score(TASK, EPISODE)
    with pytest.raises(RewardError, match="hangs in 2 calls"):
        await scorer.score(TASK, EPISODE)
    ended.set()

    async def forever(task: Task, episode: Episode) -> float:
        await asyncio.Event().wait()
        return 1.0

    with pytest.raises(RewardError, match="did not return"):
        await Scorer(forever, timeout_s=0.01).score(TASK, EPISODE)


async def test_the_first_failure_is_a_warning_with_its_traceback_and_the_others_are_only_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    scorer = Scorer(raises(ValueError("no float")))
    for _ in range(3):
        with pytest.raises(RewardError):
            await scorer.score(TASK, EPISODE)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO", "INFO", "INFO"]
    assert "is left out: the reward function" in caplog.messages[0]
    assert caplog.records[1].exc_info is not None
    assert "in judge" in caplog.text


def test_a_coroutine_that_does_not_let_itself_be_cancelled_does_not_keep_the_event_loop_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_code, "CLEANUP_S", 0.01)

    async def stubborn(task: Task, episode: Episode) -> float:
        while True:
            try:
                await asyncio.sleep(3600)
            except BaseException:
                await asyncio.sleep(0)

    async def score() -> None:
        with pytest.raises(RewardError, match="did not return within"):
            await Scorer(stubborn, timeout_s=0.01).score(TASK, EPISODE)

    asyncio.run(score())


async def test_a_call_that_is_quick_needs_no_thread() -> None:
    threads: list[int] = []

    def reward(task: Task, episode: Episode) -> float:
        threads.append(threading.get_ident())
        return 1.0

    quick = Scorer(reward, is_quick=lambda task, episode: episode.answer == "yes")
    assert (await quick.score(TASK, EPISODE)).score == 1.0
    await quick.score(TASK, msgspec.structs.replace(EPISODE, answer="a long answer"))
    assert threads[0] == threading.get_ident() != threads[1]
    with pytest.raises(RewardError, match="raised ZeroDivisionError"):
        await Scorer(lambda task, episode: 1 / 0, is_quick=lambda task, episode: True).score(TASK, EPISODE)


@pytest.mark.parametrize(
    ("scorer", "library"), [("score=math", "math_verify"), ("function=reasoning_gym", "reasoning_gym")]
)
def test_a_deadline_that_a_hostile_answer_can_miss_is_refused(scorer: str, library: str) -> None:
    pytest.importorskip(library)
    with pytest.raises(ConfigError, match=r"reward\.timeout_s = 40 is too short for .* Set at least 45"):
        open_scorer(load_config(None, [f"reward.{scorer}", "reward.timeout_s=40"]))
    open_scorer(load_config(None, [f"reward.{scorer}", "reward.timeout_s=45"]))
    open_scorer(load_config(None, ["reward.timeout_s=1"]))
