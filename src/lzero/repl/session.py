"""One live REPL, from the host."""

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import msgspec

from lzero.config import ReplConfig
from lzero.errors import ForkRefused, ProtocolError, ReplDied, SandboxError, ToolError, WorkspaceError
from lzero.protocols import OnCall
from lzero.repl import wire
from lzero.repl.cgroups import Group
from lzero.repl.clock import Clock
from lzero.repl.connection import Connection
from lzero.repl.files import FileLimits, Transfers
from lzero.repl.zygote import Child, Zygote
from lzero.types import Execution, WorkspaceFile

_Answer = TypeVar("_Answer")

GRACE_S = 1.0
"""What a cell has, after the interrupt, to come to its end."""
_OPEN_TIMEOUT_S = 60.0
_SEND_TIMEOUT_S = 10.0
_TRANSFER_TIMEOUT_S = 30.0
"""What a file has, to go in or out as a whole."""
_EXIT_TIMEOUT_S = 2.0
"""How long after the end of its stream a session may take to exit by itself."""
_KILL_TIMEOUT_S = 10.0


class LocalRepl:
    """A REPL in a zygote's jail. Made by `LocalPool.open`."""

    def __init__(
        self, zygote: Zygote, child: Child, connection: Connection, on_call: OnCall, config: ReplConfig
    ) -> None:
        self._zygote = zygote
        self._child = child
        self._connection = connection
        self._on_call = on_call
        self._transfers = Transfers(connection, FileLimits.of(config))
        self._output_chars = 1000 * config.output_kb
        self._max_calls = config.tool_calls
        self._loop = asyncio.get_running_loop()
        self._cells = 0
        self._calls = 0
        self._ended = ""
        self._verdict = ""
        self._expired = ""
        self.opened = time.monotonic()
        self._closed = False
        self.group: Group | None = None
        """The control group that its processes are in, where there are any."""
        self._at_work = False
        self.on_close: Callable[[], None] = lambda: None
        self.on_fork: Callable[[OnCall], Awaitable[LocalRepl]] = _unforkable
        """Makes a copy that is yet to be renewed."""

    async def become(self, tools: tuple[wire.ToolStub, ...], seed: int) -> None:
        """Turn the fresh fork into a session. Raises ReplError."""
        until = self._loop.time() + _OPEN_TIMEOUT_S
        try:
            with suppress(ConnectionError):  # where it has failed already, it has said why
                await self._connection.send(
                    wire.Open(tools=tools, seed=seed, output_chars=self._output_chars), until=until
                )
            answer = await self._connection.receive(until=until)
        except TimeoutError:
            raise ReplDied(f"a REPL did not start within {_OPEN_TIMEOUT_S:.0f} s") from None
        except ConnectionError:
            raise ReplDied(f"a REPL did not start: {await self._why_gone()}") from None
        if isinstance(answer, wire.Failed):
            raise SandboxError(f"a REPL could not be shut in: {answer.reason}")
        if not isinstance(answer, wire.Ready):
            raise ProtocolError(f"a REPL began with {type(answer).__name__}")
        try:
            async with asyncio.timeout_at(until):
                await asyncio.shield(self._child.forked)  # the zygote may speak later than its child
        except TimeoutError:
            raise ReplDied(f"a REPL did not start within {_OPEN_TIMEOUT_S:.0f} s") from None

    async def run(self, code: str, *, deadline_s: float) -> Execution:
        """Run one cell. The time that the host's tools take counts neither against `deadline_s` nor in the duration.

        Raises ReplDied if the REPL was already gone, or went without the cell's doing.
        """
        if self._ended:
            raise ReplDied(f"this REPL has ended: {self._ended}")
        self._ended = "its last cell was abandoned"  # unless this one comes to an end
        self._at_work = True
        self._cells += 1
        clock = Clock(self._loop.time())
        message = wire.Run(id=self._cells, code=code.encode("utf-8", "replace").decode())
        try:
            execution = await self._converse(message, clock, deadline_s)
        except TimeoutError:
            reason = f"time: the cell ignored its deadline of {deadline_s:g} s and the interrupt"
        except ProtocolError as error:
            reason = f"protocol: {error}"
        except ConnectionError:
            if self._expired:
                self._ended = self._expired
                raise ReplDied(f"this REPL has ended: {self._ended}") from None
            reason = self._verdict or self.objection() or f"exit: the session {await self._why_gone()}"
        else:
            self._ended = ""
            return execution
        finally:
            self._at_work = False
        self._ended = reason
        await self._kill()
        return Execution(outputs=(), status="killed", reason=reason, duration_s=clock.duration(self._loop.time()))

    async def put(self, path: str, data: bytes) -> None:
        await self._carry(lambda until: self._transfers.put(path, data, until=until))

    async def get(self, path: str) -> bytes:
        return await self._carry(lambda until: self._transfers.get(path, until=until))

    async def files(self) -> tuple[WorkspaceFile, ...]:
        return await self._carry(lambda until: self._transfers.files(until=until))

    async def fork(self, on_call: OnCall, *, seed: int) -> "LocalRepl":
        if self._at_work:
            raise ForkRefused("this REPL cannot be copied while a cell runs or a file is carried")
        await self._carry(self._settle)
        self._at_work = True
        try:
            copy = await self.on_fork(on_call)
        except ReplDied:
            self._ended = self._ended or "it died as it was copied"
            raise
        finally:
            self._at_work = False
        ready = False
        try:
            await copy._carry(lambda until: copy._ask(wire.Renew(seed=seed), until))
            ready = True
        finally:
            if not ready:
                await copy.close()
        return copy

    async def copy_into(self, connection: socket.socket) -> tuple[Zygote, Child]:
        """The processes of a copy that answers at the other end of `connection`. Raises ForkRefused, ReplDied."""
        making = asyncio.ensure_future(self._zygote.copy(self._child, connection))
        try:
            return self._zygote, await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._end_unwanted)
            raise

    def _end_unwanted(self, making: "asyncio.Future[Child]") -> None:
        if not making.cancelled() and making.exception() is None:
            self._unwanted = asyncio.ensure_future(self._zygote.signal(making.result(), signal.SIGKILL))

    async def _settle(self, until: float) -> None:
        await self._ask(wire.Settle(), until)

    async def _ask(self, message: wire.Settle | wire.Renew, until: float) -> None:
        await self._connection.send(message, until=until)
        answer = await self._connection.receive(until=until)
        if not isinstance(answer, wire.Ready):
            raise ProtocolError(f"{type(answer).__name__} for {type(message).__name__}")

    def objection(self) -> str:
        """What its control group has against its going on; empty for nothing."""
        return self.group.objection() if self.group and not self._closed else ""

    async def forked(self) -> int:
        """The pid of its session, on the host, as soon as it is known; 0 where it has ended before."""
        return await asyncio.shield(self._child.forked)

    @property
    def host_pids(self) -> tuple[int, ...]:
        """Of its session and of its init, on the host; none while they are not known."""
        if not self._child.forked.done() or not self._child.forked.result():
            return ()
        return self._child.forked.result(), self._child.init

    async def kill(self, reason: str) -> None:
        """End the session for what it did; its cell, or the next one, answers `killed` with this reason."""
        self._verdict = self._verdict or reason
        await self._kill()

    async def expire(self, reason: str) -> None:
        """End the session for no fault of its own: its cell, or the next one, raises ReplDied with this reason."""
        self._expired = self._expired or reason
        await self._kill()

    async def close(self) -> None:
        """Kill the session and everything it started. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._ended = self._ended or "it was closed"
        try:
            await self._kill()
        finally:
            self._connection.close()
            self.on_close()

    async def _carry(self, transfer: Callable[[float], Awaitable[_Answer]]) -> _Answer:
        """A transfer between two cells, with its deadline. Raises WorkspaceError, and the session lives; any ReplError, and it
        is gone."""
        if self._ended:
            raise ReplDied(f"this REPL has ended: {self._ended}")
        self._ended = "its last transfer was abandoned"  # unless this one comes to an end
        self._at_work = True
        broken: ProtocolError | None = None
        try:
            answer = await transfer(self._loop.time() + _TRANSFER_TIMEOUT_S)
        except WorkspaceError:
            self._ended = ""
            raise
        except TimeoutError:
            reason = f"time: the session did not carry a file within {_TRANSFER_TIMEOUT_S:g} s"
        except ProtocolError as error:
            reason, broken = f"protocol: {error}", error
        except ConnectionError:
            reason = self._expired or self._verdict or self.objection() or f"exit: the session {await self._why_gone()}"
        else:
            self._ended = ""
            return answer
        finally:
            self._at_work = False
        self._ended = reason
        await self._kill()
        raise broken or ReplDied(reason)

    async def _converse(self, message: wire.Run, clock: Clock, deadline_s: float) -> Execution:
        """Send the cell, answer its calls, return when it is done. Past the deadline it is interrupted, once."""
        await self._connection.send(message, until=self._loop.time() + _SEND_TIMEOUT_S)
        allowed, interrupted = deadline_s, False
        while True:
            try:
                clock.check(self._loop.time(), allowed)  # calls that wait in the buffer are no way around the deadline
                answer = await self._connection.receive(until=clock.until(allowed))
            except TimeoutError:
                if interrupted:
                    raise
                interrupted, allowed = True, clock.duration(self._loop.time()) + GRACE_S
                await self._zygote.signal(self._child, signal.SIGINT)
                continue
            match answer:
                case wire.Call():
                    await self._answer(answer, clock)
                    await asyncio.sleep(0)  # a flood of calls leaves the other sessions their turn
                case wire.Done() if answer.id == message.id:
                    return Execution(
                        outputs=answer.outputs,
                        status="timed_out" if interrupted else answer.status,
                        duration_s=clock.duration(self._loop.time()),
                        reason=f"interrupted after {deadline_s:g} s" if interrupted else "",
                    )
                case _:
                    raise ProtocolError(f"{type(answer).__name__} in the middle of cell {message.id}")

    async def _answer(self, call: wire.Call, clock: Clock) -> None:
        self._calls += 1
        if call.id != self._calls:
            raise ProtocolError(f"call {call.id} where {self._calls} was due")
        asked = self._loop.time()
        try:
            if call.id > self._max_calls:
                raise ToolError(f"a session may make {self._max_calls:,} tool calls, no more", fault="agent")
            reply = wire.Reply(value=await self._on_call(call.name, wire.arguments_of(call)))
        except ToolError as error:
            reply = wire.Reply(error=str(error))
        clock.waited += self._loop.time() - asked
        until = self._loop.time() + _SEND_TIMEOUT_S
        try:
            await self._connection.send(reply, until=until)
        except (ProtocolError, TypeError, OverflowError, UnicodeEncodeError, msgspec.EncodeError) as error:
            await self._connection.send(wire.Reply(error=f"the answer cannot be sent: {error}"), until=until)

    async def _why_gone(self) -> str:
        """How the session ended, in words. Raises ReplDied where the zygote ended, and so not by the cell's doing."""
        try:
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                code = await asyncio.shield(self._child.ended)
        except TimeoutError:
            return "closed its connection"
        if code is None:
            self._ended = "the sandbox's zygote died"
            raise ReplDied(self._ended)
        return f"was killed by {signal_name(-code)}" if code < 0 else f"exited with code {code}"

    async def _kill(self) -> None:
        """Returns when the session and its init are reaped, and with them everything in their pid namespace."""
        if self._child.ended.done():
            return
        try:
            await self._zygote.signal(self._child, signal.SIGKILL)
            async with asyncio.timeout(_KILL_TIMEOUT_S):
                await asyncio.shield(self._child.ended)
        except ReplDied:
            return  # with its zygote
        except TimeoutError:
            await self._zygote.stop()


async def _unforkable(on_call: OnCall) -> LocalRepl:
    raise ForkRefused("this REPL is of no pool")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
