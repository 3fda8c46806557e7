"""Cells of a live session, from the host: one at a time, against a clock, with the host's tools; and the session's end."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from lzero.config import ReplConfig
from lzero.errors import ProtocolError, ToolError
from lzero.protocols import OnCall
from lzero.repl import wire
from lzero.repl.clock import Clock
from lzero.repl.ending import Ending
from lzero.types import Execution

BROKEN = (TimeoutError, ProtocolError, ConnectionError)
"""What a session raises, as it is talked to, that can be talked to no more."""


class Session(ABC):
    """A live session of this machine, whatever it is shut in."""

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
        """Run one cell. The time that the host's tools take counts neither against `deadline_s` nor in the duration.

        Raises ReplDied if the REPL was already gone, or went without the cell's doing.
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
        """End the session for what it did; its cell, or the next one, answers `killed` with this reason."""
        self._verdict = self._verdict or reason
        await self._kill()

    async def expire(self, reason: str) -> None:
        """End the session for no fault of its own: its cell, or the next one, raises ReplDied with this reason."""
        self._expired = self._expired or reason
        await self._kill()

    def objection(self) -> str:
        """What the kernel has against its going on; empty for nothing."""
        return ""

    @abstractmethod
    async def _converse(self, code: str, clock: Clock) -> Execution:
        """Send the cell, answer its calls, return when it is done. Past the deadline it is interrupted, once."""

    @abstractmethod
    async def _kill(self) -> None:
        """Returns when nothing of it is left. Safe to call twice."""

    @abstractmethod
    async def _why_gone(self) -> str:
        """How the session ended, in words; empty where nobody knows. Raises ReplDied where it was nothing that it did."""

    async def _end(self, error: Exception, *, late: str) -> str:
        """End what has broken off with one of `BROKEN`; why, in words. `late`: what a TimeoutError means."""
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
        """Have the host's tool called: the frame of its reply."""
        self._calls += 1
        try:
            if self._calls > self._max_calls:
                raise ToolError(f"a session may make {self._max_calls:,} tool calls, no more", fault="agent")
            with clock.stopped(), self._ending.call():
                reply = wire.Reply(value=await self._on_call(call.name, wire.arguments_of(call)))
        except ToolError as error:
            reply = wire.Reply(error=str(error))
        return wire.encode_reply(reply)
