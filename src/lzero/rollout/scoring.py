"""Score episodes with a reward function that may be slow, wrong or hung. The caller always gets a Reward or a RewardError.

    function(task, episode[, context]), in a thread ──▶ Reward | number ──────────────────▶ as_reward ──▶ Reward
                                        └──▶ awaitable, awaited on the loop ──┘

Calls run concurrently, each in a separate thread, so a function that waits for a judge delays neither the event loop nor other calls. A
function that is not thread-safe must use its own lock.
"""

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lzero.agent.user_code import Bugs, Watched
from lzero.errors import RewardError
from lzero.rewards.context import RewardContext, RewardFn, takes_context
from lzero.rewards.judge import Judge
from lzero.rewards.validation import as_reward
from lzero.seeds import derive_seed
from lzero.text import one_line
from lzero.tools.threads import in_thread
from lzero.turns import CLOCK, CallClock
from lzero.types import Episode, Reward, Task

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0
MAX_THREADS = 64
"""The most calls at once."""
MAX_HUNG = 64
"""The most calls that may hang past their deadline, each with its thread. Beyond that, further calls are refused."""
ERROR_CHARS = 500
"""Characters of an exception that a failure keeps."""

Outcome = Reward | RewardError
"""An error is a value here, because a user's code may raise SystemExit, which would end the event loop."""


class Scorer:
    """Scores episodes with `function`. Each call has `timeout_s` seconds, without those in queues for a judge. Belongs to one event
    loop."""

    def __init__(
        self,
        function: RewardFn,
        *,
        timeout_s: float = TIMEOUT_S,
        options: Mapping[str, Any] = MappingProxyType({}),
        judge: Judge | None = None,
        is_quick: Callable[[Task, Episode], bool] = lambda task, episode: False,
    ) -> None:
        """`options`: passed on to the function by name. `is_quick`: whether a call certainly takes less time than a thread takes to start;
        the function is then called on the event loop."""
        self.name = _name(function)
        self._function: Callable[..., Any] = partial(function, **options) if options else function
        self._takes_context = takes_context(function)
        self._is_quick = is_quick
        self.judge = judge
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(MAX_THREADS)
        self._hung: set[asyncio.Task[Outcome | Awaitable[object]]] = set()
        self._has_failed = False
        self._bugs = Bugs()

    async def score(self, task: Task, episode: Episode) -> Reward:
        """Return the reward of an episode that did not fail. Raises RewardError, which names the function and its mistake.

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
        if self._is_quick(task, episode):
            outcome = _call(self._function, (task, episode), len(episode.steps))
            assert isinstance(outcome, Reward | RewardError)
            return outcome
        clock = CallClock(owner=episode.id)
        mine = CLOCK.set(clock)  # for the tasks that are made here
        num_steps = len(episode.steps)
        arguments = (task, episode, self._context(episode)) if self._takes_context else (task, episode)
        try:
            call = asyncio.create_task(in_thread(_call, self._function, arguments, num_steps))
            if not await _is_done(call, clock, self._timeout_s):
                self._hung.add(call)  # its thread ends when the function returns, or with the process
                call.add_done_callback(self._hung.discard)
                return self._late()
            outcome = call.result()
            if isinstance(outcome, Reward | RewardError):
                return outcome
            waiting = asyncio.create_task(
                _awaited(Watched(outcome, f"the reward function {self.name}", self._bugs), num_steps)
            )
            try:
                if not await _is_done(waiting, clock, self._timeout_s - clock.worked_s):
                    return self._late()
            finally:
                waiting.cancel()
            return RewardError("was cancelled") if waiting.cancelled() else waiting.result()
        finally:
            CLOCK.reset(mine)

    def _context(self, episode: Episode) -> RewardContext:
        return RewardContext(outcome=episode.outcome, seed=derive_seed(episode.seed, "reward"), judge=self.judge)

    def take_metrics(self) -> dict[str, float]:
        """Return the judge's counts since the last call; {} without a judge."""
        return {} if self.judge is None else self.judge.take_metrics()

    def keep_verdicts(self, directory: Path) -> None:
        """Store the judge's verdicts in the directory of a run. Raises StoreError."""
        if self.judge is not None:
            self.judge.verdicts.keep_in(directory)

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


def _call(function: Callable[..., Any], arguments: Sequence[object], num_steps: int) -> Outcome | Awaitable[object]:
    try:
        returned = function(*arguments)
    except BaseException as error:  # SystemExit too; Ctrl-C reaches the main thread only
        return _raised(error)
    return returned if inspect.isawaitable(returned) else _checked(returned, num_steps)


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
    """Return an error with the text `raised ValueError: could not convert string to float: 'Kato' (mine.py, line 7)`."""
    what = "".join(traceback.format_exception_only(error))  # also where the exception's own __str__ fails
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    failure = RewardError(f"raised {one_line(what)[:ERROR_CHARS]}{where}")
    failure.__cause__ = error
    return failure


async def _is_done(work: "asyncio.Task[Any]", clock: CallClock, seconds: float) -> bool:
    """Wait for `work` for as many seconds of the clock. Return whether it is done."""
    with suppress(TimeoutError):
        async with clock.at_most(max(0.0, seconds)):
            await asyncio.wait((work,))
    return work.done()


def _name(function: Callable[..., Any]) -> str:
    """Return a function's import path, as `reward.function` spells it: `mine:reward`."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"
