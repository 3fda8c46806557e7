"""Score episodes with a reward function that may be slow, wrong or hung. The caller always gets a Reward or a RewardError.

    function(task, episode[, context]), in a thread ──▶ Reward | number ──────────────────▶ as_reward ──▶ Reward
                                        └──▶ awaitable, awaited on the loop ──┘

Calls run concurrently, each in a separate thread, so a function that waits for a judge delays neither the event loop nor other calls. A
function that is not thread-safe must use its own lock.
"""

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lzero.agent.user_code import Bugs, Late, Raised, outcome_in_time
from lzero.blocking import in_thread
from lzero.errors import RewardError
from lzero.plugins import described
from lzero.rewards.context import RewardContext, RewardFn, takes_context
from lzero.rewards.judge import Judge
from lzero.rewards.validation import as_reward
from lzero.seeds import derive_seed
from lzero.text import one_line
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
        self._hung: list[threading.Event] = []
        """One for each call past its deadline whose function had not returned; set when it has."""
        self._has_failed = False
        self._bugs = Bugs()

    def beside(self) -> "Scorer":
        """Return a scorer that shares all limits and the judge's verdicts, and counts its own questions to the judge."""
        other = copy(self)
        other.judge = self.judge.beside() if self.judge is not None else None
        return other

    async def score(self, task: Task, episode: Episode) -> Reward:
        """Return the reward of an episode that did not fail. Raises RewardError, which names the function and its mistake.

        Logs the first failure as a warning, with its traceback in run.log.
        """
        async with self._free:
            outcome = await self._outcome(task, episode)
        if isinstance(outcome, Reward):
            return outcome
        cause: BaseException | None
        if isinstance(outcome, Raised):
            said, cause = f"raised {one_line(described(outcome.error))[:ERROR_CHARS]}", outcome.error
        else:
            said, cause = str(outcome), outcome.__cause__
        failure = RewardError(f"the reward function {self.name} {said}")
        self._log(failure, cause, episode)
        raise failure from cause

    async def _outcome(self, task: Task, episode: Episode) -> Reward | RewardError | Raised:
        self._hung[:] = [ended for ended in self._hung if not ended.is_set()]
        if len(self._hung) >= MAX_HUNG:
            return RewardError(f"hangs in {MAX_HUNG} calls, so it is not called again")
        arguments = (task, episode, self._context(episode)) if self._takes_context else (task, episode)
        num_steps = len(episode.steps)
        clock, ended = CallClock(owner=episode.id), threading.Event()

        def call() -> Reward | RewardError | Awaitable[object]:
            try:
                returned = self._function(*arguments)
                return returned if inspect.isawaitable(returned) else _checked(returned, num_steps)
            finally:
                ended.set()

        async def called() -> Reward | RewardError:
            CLOCK.set(clock)  # for this task and those that it starts
            returned = call() if self._is_quick(task, episode) else await in_thread(call)
            return returned if isinstance(returned, Reward | RewardError) else _checked(await returned, num_steps)

        try:
            who, deadline = f"the reward function {self.name}", clock.at_most(self._timeout_s)
            return await outcome_in_time(called, who, self._bugs, deadline)
        except Late:
            if not ended.is_set():
                self._hung.append(ended)
            return RewardError(f"did not return within reward.timeout_s = {self._timeout_s:g} s")

    def _context(self, episode: Episode) -> RewardContext:
        return RewardContext(outcome=episode.outcome, seed=derive_seed(episode.seed, "reward"), judge=self.judge)

    def take_metrics(self) -> dict[str, float]:
        """Return the judge's counts since the last call; {} without a judge."""
        return {} if self.judge is None else self.judge.take_metrics()

    def keep_verdicts(self, directory: Path) -> None:
        """Store the judge's verdicts in the directory of a run. Raises StoreError."""
        if self.judge is not None:
            self.judge.verdicts.keep_in(directory)

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


def _checked(returned: object, num_steps: int) -> Reward | RewardError:
    try:
        return as_reward(returned, num_steps=num_steps)
    except RewardError as error:
        return error


def _name(function: Callable[..., Any]) -> str:
    """Return a function's import path, as `reward.function` spells it: `mine:reward`."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"
