"""Run the cells of a live session from the host, one at a time, within a deadline and with the host's tools; end the session."""

import asyncio
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from lzero.config import ReplConfig
from lzero.errors import LzeroError, ProtocolError, ReplDied, ReplError, ToolError
from lzero.protocols import OnCall
from lzero.repl import wire
from lzero.types import Execution, Output

BROKEN = (TimeoutError, ProtocolError, ConnectionError)
"""Errors of the conversation with a session after which it must be ended."""
GRACE_S = 1.0
"""Seconds that a cell has to end after the interrupt."""
_HAS_ENDED = "this REPL has ended: "
_AGAIN_S = 0.7
"""Seconds after the first interrupt at which a cell is interrupted again. One that waits for its worker processes, for example, may have
met the first interrupt and gone on waiting.
"""


class Clock:
    """The clock of one cell, which starts with it."""

    def __init__(self, deadline_s: float) -> None:
        self._now = asyncio.get_running_loop().time
        self._started = self._now()
        self._waited = 0.0
        self._deadline_s = self._allowed_s = deadline_s
        self.interrupts = 0
        """Number of interrupts that the cell was sent."""

    @property
    def duration_s(self) -> float:
        return self._now() - self._started - self._waited

    def until(self) -> float:
        """Return the deadline, by the event loop's clock. Raises TimeoutError if it has passed, so calls that wait in a buffer cannot evade
        it."""
        if self.duration_s > self._allowed_s:
            raise TimeoutError
        return self._started + self._waited + self._allowed_s

    def allow(self, more_s: float) -> None:
        """Move the deadline to `more_s` seconds from now."""
        self._allowed_s = self.duration_s + more_s

    def interrupt(self) -> None:
        """Count an interrupt, and extend the deadline a little. Raises TimeoutError the third time."""
        if self.interrupts == 2:
            raise TimeoutError
        self.allow(GRACE_S - _AGAIN_S if self.interrupts else _AGAIN_S)
        self.interrupts += 1

    @contextmanager
    def stopped(self) -> Iterator[None]:
        asked = self._now()
        try:
            yield
        finally:
            self._waited += self._now() - asked

    def execution(self, status: Literal["ok", "error"], outputs: tuple[Output, ...], duration_s: float) -> Execution:
        """Return the execution of a cell that ended, interrupted or not."""
        late = f"interrupted after {self._deadline_s:g} s" if self.interrupts else ""
        return Execution(outputs=outputs, status="timed_out" if late else status, duration_s=duration_s, reason=late)


class Ending:
    """The state of one REPL: alive and idle, at work, or ended with a reason."""

    def __init__(self) -> None:
        self.why = ""
        """The reason why it ended; "" while it lives."""
        self.at_work = False
        self.in_call = False
        """Whether its cell waits for a tool's answer. Files may be read meanwhile."""

    @contextmanager
    def call(self) -> Iterator[None]:
        """Mark that the host answers a tool call of the cell during the block."""
        self.in_call = True
        try:
            yield
        finally:
            self.in_call = False

    @contextmanager
    def unless_done(self, what: str, *refusals: type[LzeroError]) -> Iterator[None]:
        """Run one request during the block. If it does not complete, the REPL has ended, unless it raised one of `refusals`.

        Raises ReplDied if the REPL had already ended.
        """
        self.check()
        self.why, self.at_work = f"its last {what} was abandoned", True
        try:
            yield
        except refusals:
            self.why = ""
            raise
        except ReplError as error:
            self.why = str(error).removeprefix(_HAS_ENDED)
            raise
        else:
            self.why = ""
        finally:
            self.at_work = False

    def check(self) -> None:
        """Raise ReplDied if the REPL has ended."""
        if self.why:
            raise ReplDied(_HAS_ENDED + self.why)


class BaseRepl(ABC):
    """A REPL of this machine, in a sandbox or not."""

    def __init__(self, on_call: OnCall, config: ReplConfig) -> None:
        self._on_call = on_call
        self._max_calls = config.tool_calls
        self._calls = 0
        self._output_chars = 1000 * config.output_kb
        self._loop = asyncio.get_running_loop()
        self._ending = Ending()
        self._verdict = ""
        self._expired = ""
        self.opened = time.monotonic()
        self.on_close: Callable[[], None] = lambda: None

    async def run(self, code: str, *, deadline_s: float) -> Execution:
        """Run one cell. The time of the host's tools counts neither against `deadline_s` nor in the duration.

        Raises ReplDied if the REPL had already ended, or ended through no fault of the cell.
        """
        clock = Clock(deadline_s)
        try:
            with self._ending.unless_done("cell"):
                return await self._converse(code.encode("utf-8", "replace").decode(), clock)
        except BROKEN as error:
            reason = await self._end(error, late=f"the cell ignored its deadline of {deadline_s:g} s and the interrupt")
        if reason == self._expired:
            self._ending.check()
        return Execution(outputs=(), status="killed", reason=reason, duration_s=clock.duration_s)

    async def kill(self, reason: str) -> None:
        """End the session because of what it did. Its cell, or the next one, returns the status `killed` with this reason."""
        self._verdict = self._verdict or reason
        await self._kill()

    async def expire(self, reason: str) -> None:
        """End the session through no fault of its own. Its cell, or the next one, raises ReplDied with this reason."""
        self._expired = self._expired or reason
        await self._kill()

    async def close(self) -> None:
        """Kill the session with everything it started, and leave nothing behind. Safe to call twice."""
        self._ending.why = self._ending.why or "it was closed"
        try:
            await self._kill()
        finally:
            self.on_close()

    def objection(self) -> str:
        """Return the kernel's reason why the session must end; "" if there is none."""
        return ""

    @abstractmethod
    async def _converse(self, code: str, clock: Clock) -> Execution:
        """Send the cell, answer its calls and return when it is done. Past the deadline, interrupt it as `Clock.interrupt` allows."""

    @abstractmethod
    async def _kill(self) -> None:
        """Kill the session, and return when nothing of it is left. Safe to call twice."""

    @abstractmethod
    async def _why_gone(self) -> str:
        """Return how the session ended, in words; "" if unknown. Raises ReplDied if it ended through no fault of its own."""

    async def _end(self, error: Exception, *, late: str) -> str:
        """End the session after an error of `BROKEN`, and return the reason in words. `late`: the reason for a TimeoutError."""
        match error:
            case TimeoutError():
                reason = f"time: {late}"
            case ProtocolError():
                reason = f"protocol: {error}"
            case _:
                reason = self._expired or self._verdict or self.objection()
                reason = reason or f"exit: the session {await self._why_gone() or error}"
        self._ending.why = reason
        await self._kill()
        return reason

    async def _answer(self, call: wire.Call, clock: Clock) -> bytes:
        """Call the host's tool, and return the frame of its reply."""
        self._calls += 1
        try:
            if self._calls > self._max_calls:
                raise ToolError(f"a session may make {self._max_calls:,} tool calls, no more", fault="agent")
            with clock.stopped(), self._ending.call():
                reply = wire.Reply(value=await self._on_call(call.name, wire.arguments_of(call)))
        except ToolError as error:
            reply = wire.Reply(error=str(error))
        return wire.encode_reply(reply)


def how_ended(code: int) -> str:
    """Describe in words how a process ended, from its exit code. A negative code is a signal."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-code}"
