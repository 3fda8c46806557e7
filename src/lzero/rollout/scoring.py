"""Scores episodes with a reward function that may be slow, wrong or hung. The caller always gets a Reward or a RewardError.

    function(task, episode), in a thread ──▶ Reward | number ──────────────────▶ as_reward ──▶ Reward
                                        └──▶ awaitable, awaited on the loop ──┘

Calls run concurrently, each in a thread of its own, so a function that waits for a judge holds up neither the event loop nor
other calls. A function that is not thread-safe must bring its own lock.
"""

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from lzero.agent.bugs import Bugs
from lzero.agent.calling import Watched
from lzero.errors import RewardError
from lzero.protocols import RewardFn
from lzero.rewards.validation import as_reward
from lzero.text import one_line
from lzero.tools.threads import in_thread
from lzero.types import Episode, Reward, Task

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0
MAX_THREADS = 64
"""Calls that run at once."""
MAX_HUNG = 64
"""Calls that may hang past their deadline, each with its thread. With so many, further calls are refused."""
ERROR_CHARS = 500
"""Characters of an exception that a failure keeps."""

Outcome = Reward | RewardError
"""An error is a value here, because a user's code may raise SystemExit, which would end the event loop."""


class Scorer:
    """Scores episodes by `function`; each call has `timeout_s` seconds. Belongs to one event loop."""

    def __init__(self, function: RewardFn, *, timeout_s: float = TIMEOUT_S) -> None:
        self.name = _name(function)
        self._function = function
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(MAX_THREADS)
        self._hung: set[asyncio.Task[Outcome | Awaitable[object]]] = set()
        self._has_failed = False
        self._bugs = Bugs()

    async def score(self, task: Task, episode: Episode) -> Reward:
        """Return the reward of an episode that did not fail. Raises RewardError, which names the function and what it did.

        Logs the first failure as a warning, with its traceback in run.log.
        """
        async with self._free:
            outcome = await self._outcome(task, episode)
        if isinstance(outcome, Reward):
            return outcome
        failure = RewardError(f"the reward function {self.name} {outcome}")
        self._log(failure, outcome.__cause__, episode)
        raise failure from outcome

    async def _outcome(self, task: Task, episode: Episode) -> Outcome:
        if len(self._hung) >= MAX_HUNG:
            return RewardError(f"hangs in {MAX_HUNG} calls, so it is not called again")
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        num_steps = len(episode.steps)
        call = asyncio.create_task(in_thread(_call, self._function, task, episode))
        if not await _is_done(call, deadline):
            self._hung.add(call)  # its thread ends when the function returns, or with the process
            call.add_done_callback(self._hung.discard)
            return self._late()
        outcome = call.result()
        if isinstance(outcome, Reward | RewardError):
            return outcome
        waiting = asyncio.create_task(_awaited(Watched(outcome, self._log_blocking), num_steps))
        try:
            if not await _is_done(waiting, deadline):
                return self._late()
        finally:
            waiting.cancel()
        return RewardError("was cancelled") if waiting.cancelled() else waiting.result()

    def _log_blocking(self, blocked_s: float) -> None:
        self._bugs.log_blocking(f"the reward function {self.name}", blocked_s)

    def _late(self) -> RewardError:
        return RewardError(f"did not return within reward.timeout_s = {self._timeout_s:g} s")

    def _log(self, failure: RewardError, cause: BaseException | None, episode: Episode) -> None:
        if self._has_failed:
            logger.info("episode %s is left out: %s", episode.id, failure)
            return
        self._has_failed = True
        logger.warning(
            "episode %s is left out: %s. The metric failures/reward counts such episodes, and run.log names each",
            episode.id,
            failure,
        )
        if cause is not None:
            logger.info("traceback of that failure:", exc_info=cause)


def _call(function: RewardFn, task: Task, episode: Episode) -> Outcome | Awaitable[object]:
    try:
        returned = function(task, episode)
    except BaseException as error:  # SystemExit too; Ctrl-C reaches the main thread only
        return _raised(error)
    return returned if inspect.isawaitable(returned) else _checked(returned, len(episode.steps))


async def _awaited(returned: Awaitable[object], num_steps: int) -> Outcome:
    try:
        value = await returned
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise
    except BaseException as error:
        return _raised(error)
    return _checked(value, num_steps)


def _checked(returned: object, num_steps: int) -> Outcome:
    try:
        return as_reward(returned, num_steps=num_steps)
    except RewardError as error:
        return error
    except BaseException as error:  # raised by an iterator in the returned value
        return _raised(error)


def _raised(error: BaseException) -> RewardError:
    """Return an error that says `raised ValueError: could not convert string to float: 'Kato' (mine.py, line 7)`."""
    what = "".join(traceback.format_exception_only(error))  # also where the exception's own __str__ fails
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    failure = RewardError(f"raised {one_line(what)[:ERROR_CHARS]}{where}")
    failure.__cause__ = error
    return failure


async def _is_done(work: "asyncio.Task[Any]", deadline: float) -> bool:
    done, _ = await asyncio.wait((work,), timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
    return bool(done)


def _name(function: RewardFn) -> str:
    """Return a function's import path, as `reward.function` spells it: `mine:reward`."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"
