"""Control a live session in a zygote's jail from the host: its start, cells, files, copies and end."""

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from lzero.closing import closed_on_error
from lzero.config import ReplConfig
from lzero.errors import ForkRefused, ProtocolError, ReplDied, SandboxError, WorkspaceError
from lzero.protocols import OnCall, ToolStub
from lzero.repl import wire
from lzero.repl.cells import BROKEN, BaseRepl, Clock, how_ended
from lzero.repl.cgroups import Group
from lzero.repl.connection import Connection
from lzero.repl.files import Transfers
from lzero.repl.zygote_handle import Child, ZygoteHandle
from lzero.types import Execution, WorkspaceFile

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_OPEN_TIMEOUT_S = 60.0
_SEND_TIMEOUT_S = 10.0
_BETWEEN_CELLS_S = 30.0
"""Seconds for the transfer of a whole file, and for a session to get ready to be copied or to continue as a copy."""
_EXIT_TIMEOUT_S = 2.0
"""Seconds that a session may take to exit by itself after its stream has ended."""
_KILL_TIMEOUT_S = 10.0


class LocalRepl(BaseRepl):
    """A REPL in a zygote's jail. `LocalPool.open` makes it."""

    def __init__(
        self, zygote: ZygoteHandle, child: Child, connection: Connection, on_call: OnCall, config: ReplConfig
    ) -> None:
        super().__init__(on_call, config)
        self._zygote = zygote
        self._child = child
        self._connection = connection
        self._transfers = Transfers(connection, config)
        self._cells = 0
        self._interrupts = 0
        """Number of times that the last cell was interrupted."""
        self._reading = asyncio.Lock()
        self._closed = False
        self.group: Group | None = None
        """The control group of its processes, if there is one."""
        self.on_fork: Callable[[OnCall], Awaitable[LocalRepl]] = _unforkable
        """Makes a copy, which must still be renewed."""
        self._ending_unwanted: asyncio.Future[None] | None = None
        """The task that ends a copy which nobody waits for. A task without a reference may be collected before it is done."""

    async def become(self, tools: tuple[ToolStub, ...], seed: int) -> None:
        """Turn the fresh fork into a session. Raises ReplError."""
        until = self._loop.time() + _OPEN_TIMEOUT_S
        opening = wire.Open(tools=tools, seed=seed, output_chars=self._output_chars)
        try:
            with suppress(ConnectionError):  # a REPL that has failed already has sent the reason
                await self._connection.send(opening, until=until)
            answer = await self._connection.receive(until=until)
            if isinstance(answer, wire.Failed):
                raise SandboxError(f"a REPL could not be shut in: {answer.reason}")
            if not isinstance(answer, wire.Ready):
                raise ProtocolError(f"a REPL began with {type(answer).__name__}")
            async with asyncio.timeout_at(until):
                await self.forked()  # the zygote may speak later than its child
        except TimeoutError:
            raise ReplDied(f"a REPL did not start within {_OPEN_TIMEOUT_S:.0f} s") from None
        except ConnectionError:
            raise ReplDied(f"a REPL did not start: {await self._why_gone()}") from None

    async def put(self, path: str, data: bytes) -> None:
        await self._between_cells("transfer", lambda until: self._transfers.put(path, data, until=until))

    async def get(self, path: str) -> bytes:
        if self._ending.in_call:
            return await self._get_in_call(path)
        return await self._between_cells("transfer", lambda until: self._transfers.get(path, until=until))

    async def files(self) -> tuple[WorkspaceFile, ...]:
        return await self._between_cells("transfer", lambda until: self._transfers.files(until=until))

    async def fork(self, on_call: OnCall, *, seed: int) -> "LocalRepl":
        if self._ending.at_work:
            raise ForkRefused("this REPL cannot be copied while a cell runs or a file is carried")
        await self._between_cells("fork", lambda until: self._ask(wire.Settle(), until))
        self._ending.at_work = True
        try:
            copy = await self.on_fork(on_call)
        except ReplDied:
            self._ending.why = self._ending.why or "it died as it was copied"
            raise
        finally:
            self._ending.at_work = False
        async with closed_on_error(copy.close):
            await copy._between_cells("fork", lambda until: copy._ask(wire.Renew(seed=seed), until))
        return copy

    async def copy_into(self, connection: socket.socket) -> tuple[ZygoteHandle, Child]:
        """Make a copy that answers at the other end of `connection`, and return its zygote and processes. Takes over the connection.

        Raises ForkRefused, ReplDied.
        """
        given = socket.socket(fileno=connection.detach())  # if this call is cancelled, the socket must still be sent
        making = asyncio.ensure_future(self._zygote.copy(self._child, given))
        making.add_done_callback(lambda _: given.close())
        try:
            return self._zygote, await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._end_unwanted)
            raise

    def _end_unwanted(self, making: "asyncio.Future[Child]") -> None:
        if not making.cancelled() and making.exception() is None:
            self._ending_unwanted = asyncio.ensure_future(self._zygote.signal(making.result(), signal.SIGKILL))

    async def _ask(self, message: wire.Settle | wire.Renew, until: float) -> None:
        await self._connection.send(message, until=until)
        answer = await self._connection.receive(until=until)
        if not isinstance(answer, wire.Ready):
            raise ProtocolError(f"{type(answer).__name__} for {type(message).__name__}")

    def objection(self) -> str:
        """Return why its control group requires the REPL to end; "" if it does not."""
        return self.group.objection() if self.group and not self._closed else ""

    async def forked(self) -> int:
        """Return the pid of its session on the host, as soon as it is known; 0 if the session has ended before."""
        return await asyncio.shield(self._child.forked)

    @property
    def host_pids(self) -> tuple[int, ...]:
        """The pids of its session and its init on the host; () while they are unknown."""
        if not self._child.forked.done() or not self._child.forked.result():
            return ()
        return self._child.forked.result(), self._child.init

    async def close(self) -> None:
        self._closed = True
        try:
            await super().close()
        finally:
            self._connection.close()

    async def _between_cells(self, what: str, act: Callable[[float], Awaitable[_Result]]) -> _Result:
        """Do a "transfer" or a "fork" between two cells, within a deadline.

        Raises WorkspaceError, after which the session lives, or a ReplError, after which it has ended.
        """
        try:
            with self._ending.unless_done(what, WorkspaceError):
                return await act(self._loop.time() + _BETWEEN_CELLS_S)
        except BROKEN as error:
            late = f"the session did not come to the end of a {what} within {_BETWEEN_CELLS_S:g} s"
            reason = await self._end(error, late=late)
            raise error if isinstance(error, ProtocolError) else ReplDied(reason) from None

    async def _get_in_call(self, path: str) -> bytes:
        """Read a file while the session waits for a tool's answer. An error is raised through the tool, so it ends the cell."""
        async with self._reading:
            try:
                return await self._transfers.get(path, until=self._loop.time() + _BETWEEN_CELLS_S)
            except TimeoutError:
                raise ProtocolError(f"a file was not carried within {_BETWEEN_CELLS_S:g} s") from None

    async def _converse(self, code: str, clock: Clock) -> Execution:
        self._cells += 1
        cell = wire.Run(id=self._cells, code=code, interrupts=self._interrupts)
        self._interrupts = 0
        await self._connection.send(cell, until=self._loop.time() + _SEND_TIMEOUT_S)
        while True:
            try:
                answer = await self._connection.receive(until=clock.until())
            except TimeoutError:
                clock.interrupt()
                self._interrupts += 1
                await self._zygote.signal(self._child, signal.SIGINT)
                continue
            match answer:
                case wire.Call():
                    if answer.id != self._calls + 1:
                        raise ProtocolError(f"call {answer.id} where {self._calls + 1} was due")
                    reply = await self._answer(answer, clock)
                    await self._connection.send_frame(reply, until=self._loop.time() + _SEND_TIMEOUT_S)
                    await asyncio.sleep(0)  # a flood of calls leaves the other sessions their turn
                case wire.Done() if answer.id == cell.id:
                    outputs = wire.outputs_of(answer, self._output_chars)
                    return clock.execution(answer.status, outputs, clock.duration_s)
                case _:
                    raise ProtocolError(f"{type(answer).__name__} in the middle of cell {cell.id}")

    async def _why_gone(self) -> str:
        try:
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                code = await asyncio.shield(self._child.ended)
        except TimeoutError:
            return "closed its connection"
        if code is None:
            self._ending.why = "the sandbox's zygote died"
            raise ReplDied(self._ending.why)
        return how_ended(code)

    async def _kill(self) -> None:
        """Kill the session and its init, and with them everything in their pid namespace; return when they are reaped.

        A process of low priority on a busy machine ends slowly. Its zygote then reaps it later, and the zygote's other sessions go on.
        """
        if self._child.ended.done():
            return
        try:
            await self._zygote.signal(self._child, signal.SIGKILL)
            async with asyncio.timeout(_KILL_TIMEOUT_S):
                await asyncio.shield(self._child.ended)
        except ReplDied:
            return  # with its zygote
        except TimeoutError:
            logger.warning("a REPL was killed, and has not ended within %g s", _KILL_TIMEOUT_S)


async def _unforkable(on_call: OnCall) -> LocalRepl:
    raise ForkRefused("this REPL is of no pool")
