"""Retry a tool when its service fails, limit its rate of calls, and pause when the service says that it is asked too often.

    Retried(Throttled(RateLimited(tool, per_second=5.0), seed=7), seed=7)

Only failures of the tool are retried; the agent sees its own mistakes at once.

    the service refuses a call    all episodes wait for as long as it asks
    after that                    calls take turns, refused ones first, until none waits
"""

import asyncio
import email.utils
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from lzero.errors import HelperBusy, ToolError
from lzero.protocols import Tool, ToolContext
from lzero.tools.wrapper import Wrapper
from lzero.turns import Turns, call_clock
from lzero.types import Json

T = TypeVar("T")
PATIENCE_S = 50.0
"""Seconds that a call may take with all its tries and waits: less than the deadline of every tool call."""
PLACES = 4
"""The most calls at once, of all episodes, that take turns after a pause."""
MAX_WAITING = 8
"""The most calls of one episode that may wait for a place, so an episode that floods the service waits behind few of its own."""
_RAISE = "raise tools.calls_per_second, or run fewer episodes at once"


class ServiceError(ToolError):
    """The service of a tool failed: the tool's fault.

    `permanent`: a retry would not help (a refused key, an account without credit). `retry_after_s`: seconds that the service asks to wait.
    """

    def __init__(self, message: str, *, permanent: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(message, fault="tool")
        self.permanent = permanent
        self.retry_after_s = retry_after_s


class AskedTooOften(ServiceError):
    """A service refuses a call because of too many before it."""


class Unanswered(ServiceError):
    """A service received a whole request and did not answer in time.

    If the agent chose the service's input, the tool converts this to a ToolError with the agent's fault.
    """


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Number of tries, and waits between them: doubled each time, with random jitter from half to all of it."""

    tries: int = 3
    first_s: float = 0.5
    longest_s: float = 8.0

    def pause_s(self, failures: int, source: random.Random) -> float:
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 60)) * source.uniform(0.5, 1.0)


PAUSES = Backoff(longest_s=60.0)
"""Pauses after one refusal, two consecutive ones, …; the service may ask for a longer one, up to `longest_s`."""


async def retrying(
    attempt: Callable[[], Awaitable[T]],
    backoff: Backoff,
    source: random.Random,
    *,
    patience_s: float = PATIENCE_S,
) -> T:
    """Return what `attempt` returns; retry it while it fails by the tool's own fault.

    Raises the last ToolError when the tries or `patience_s` (without seconds in queues) are used up, or a retry is useless. If the
    first attempt alone outlasts `patience_s`, that is the agent's fault, like any call that takes too long.
    """
    clock = call_clock()
    until = clock.worked_s + patience_s
    failures = 0
    while True:
        deadline: asyncio.Timeout | None = None
        try:
            async with clock.at_most(until - clock.worked_s) as deadline:
                return await attempt()
        except TimeoutError:
            if deadline is None or not deadline.expired():  # the tool's own
                raise
            late = f"no answer within {patience_s:g} s"
            raise (ServiceError(late) if failures else ToolError(late, fault="agent")) from None
        except ToolError as error:
            failures += 1
            if error.fault == "agent" or isinstance(error, HelperBusy) or failures >= backoff.tries:
                raise
            pause_s = backoff.pause_s(failures, source)
            if isinstance(error, ServiceError):
                if error.permanent:
                    raise
                pause_s = max(pause_s, error.retry_after_s)
            if clock.worked_s + pause_s >= until:
                raise
        await asyncio.sleep(pause_s)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to wait: its header holds them, or a date. None if it does not ask."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]{1,9})?", value):
        return float(value[:9])
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


class Retried(Wrapper):
    """Retries a tool that failed by its own fault. The waits are drawn from `seed`."""

    def __init__(self, tool: Tool, backoff: Backoff = Backoff(), *, seed: int = 0) -> None:
        super().__init__(tool)
        self._backoff = backoff
        self._source = random.Random(seed)

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        return await retrying(lambda: self.tool.call(arguments, context), self._backoff, self._source)


class RateLimited(Wrapper):
    """Starts at most `per_second` calls a second, of all episodes together, which take turns.

    If the rate is too low for a call to be useful, the call fails at once, and the error names the key to change.
    """

    def __init__(self, tool: Tool, *, per_second: float) -> None:
        super().__init__(tool)
        self._per_second = per_second
        self._next_start = 0.0
        """By the event loop's clock."""
        self._turns = Turns(1, f"a call of {tool.name} at {per_second:g} a second", advice=_RAISE)

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Call the tool when its turn comes. Raises what the tool raises; HelperBusy, ServiceError."""
        async with self._turns.turn():
            now = _now()
            wait_s = max(0.0, self._next_start - now)
            if wait_s > PATIENCE_S:
                raise ServiceError(
                    f"{self.name}: {wait_s:.0f} s of calls are waiting at {self._per_second:g} a second; {_RAISE}",
                    permanent=True,
                )
            self._next_start = now + wait_s + 1.0 / self._per_second
            with call_clock().stopped():
                await asyncio.sleep(wait_s)
        return await self.tool.call(arguments, context)


class Throttled(Wrapper):
    """Pauses the calls of all episodes when the service reports too many. Such waits count as seconds in a queue."""

    def __init__(self, tool: Tool, *, seed: int = 0) -> None:
        super().__init__(tool)
        self._source = random.Random(seed)
        self._turns = Turns(PLACES, f"{tool.name}, whose service is asked too often", max_waiting=MAX_WAITING)
        self._in_line = 0
        self._refusals = 0
        """Number of consecutive refusals."""
        self._refused_at = self._resume_at = 0.0
        """Times by the event loop's clock."""
        self._said = ""

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Call the tool, after pauses if necessary. Raises what the tool raises, except for AskedTooOften; HelperBusy if the service
        refuses for too long."""
        if not self._in_line and _now() >= self._resume_at:
            with suppress(AskedTooOften):
                return await self._ask(arguments, context)
        self._in_line += 1
        try:
            async with self._turns.turn():
                while True:
                    await self._pause()
                    with suppress(AskedTooOften):
                        return await self._ask(arguments, context)
        finally:
            self._in_line -= 1

    async def _ask(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        asked_at = _now()
        try:
            answer = await self.tool.call(arguments, context)
        except AskedTooOften as error:
            if asked_at >= self._refused_at:  # else it was under way already when another one was refused
                self._refusals += 1
            self._refused_at, self._said = _now(), str(error)
            pause_s = max(PAUSES.pause_s(self._refusals, self._source), error.retry_after_s)
            self._resume_at = max(self._resume_at, _now() + min(pause_s, PAUSES.longest_s))
            raise
        self._refusals = 0
        return answer

    async def _pause(self) -> None:
        while (pause_s := self._resume_at - _now()) > 0.0:
            async with call_clock().queueing(f"{self.name} ({self._said})"):
                await asyncio.sleep(pause_s)


def _now() -> float:
    return asyncio.get_running_loop().time()
