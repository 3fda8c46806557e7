"""Keep one connection to an MCP server, with the calls that run on it.

The same task must enter and leave the SDK's context managers, so each connection has a task of its own. It runs until `close`, or until the
server is gone. A call waits for its answer or for that task, whichever ends first.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from mcp import Client, MCPError
from mcp.types import CONNECTION_CLOSED, Implementation

from lzero import __version__
from lzero.closing import closed_on_error
from lzero.tools.mcp_servers.errors import Incoming, Outgoing
from lzero.tools.mcp_servers.stdio import STOP_S
from lzero.tools.shapes import one_line
from lzero.turns import call_clock

_CLOSE_S = 4 * STOP_S
_Answer = TypeVar("_Answer")


class Lost(Exception):
    """The connection has ended; the message says how."""


@dataclass(frozen=True)
class Transport:
    """The two streams of a connection, and the reason why they failed."""

    streams: AbstractAsyncContextManager[Any]
    problem: Callable[[], str]
    stale: Callable[[], bool] = lambda: False
    """Whether new calls need a new connection; running calls may continue."""


class Connection:
    """One connection, and the task that it lives in."""

    def __init__(self, make_transport: Callable[[Callable[[], None]], Transport]) -> None:
        self._stop = asyncio.Event()
        self._transport = make_transport(self._stop.set)
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._problem = ""
        self._asked = 0
        self.heard = 0
        """Number of messages that the server has sent."""
        self._unused = asyncio.Event()
        self._task = asyncio.create_task(self._live())

    @classmethod
    async def open(cls, make_transport: Callable[[Callable[[], None]], Transport]) -> Self:
        """Connect. Raises Lost if that fails. Leaves nothing open then, nor if the caller is cancelled."""
        connection = cls(make_transport)
        async with closed_on_error(connection.close):
            await _first(connection._client, connection._task)
            if not connection._client.done():
                raise Lost(connection.problem)
        return connection

    @property
    def usable(self) -> bool:
        """Whether new calls should use this connection."""
        return not (self._stop.is_set() or self._task.done() or self._transport.stale())

    @property
    def problem(self) -> str:
        told = self._transport.problem()
        if self._problem and told and told not in self._problem:
            return f"{self._problem} ({told})"
        return self._problem or told or "closed the connection"

    async def ask(self, what: Callable[[Client], Coroutine[Any, Any, _Answer]], deadline_s: float) -> _Answer:
        """Return the server's answer. Raises Lost, TimeoutError, and whatever the SDK raises for the answer itself."""
        request = asyncio.create_task(what(self._client.result()))
        request.add_done_callback(lambda done: done.cancelled() or done.exception())  # marks its exception as retrieved
        self._asked += 1
        try:
            async with call_clock().at_most(deadline_s):
                await _first(request, self._task)
            if not request.done():
                raise Lost(self.problem)
            return _result_of(request)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:  # from the SDK itself, because `Incoming` renumbers a server's errors
                await self._end(error.message)
                raise Lost(self.problem) from None
            raise
        finally:
            request.cancel()
            self._asked -= 1
            if not self._asked:
                self._unused.set()

    async def retire(self) -> None:
        """Close it when its running calls have ended."""
        while self._asked:
            self._unused.clear()
            await self._unused.wait()  # each of them has a deadline
        await self.close()

    async def give_up(self, problem: str) -> None:
        """Close it with its running calls, which raise Lost."""
        self._problem = self._problem or problem
        await self.close()

    async def close(self) -> None:
        """Ask the task to stop, then cancel it. If the caller is cancelled meanwhile, the task still closes what it opened."""
        self._stop.set()
        try:
            if self._client.done():
                await asyncio.wait({self._task}, timeout=_CLOSE_S)
        finally:
            self._task.cancel()
        await asyncio.wait({self._task}, timeout=_CLOSE_S)

    async def _end(self, message: str) -> None:
        """Note that the streams have ended. The task knows the reason now or soon."""
        self._stop.set()
        if not self._transport.problem():
            await asyncio.wait({self._task}, timeout=_CLOSE_S)
        self._problem = self._problem or ("" if self._transport.problem() else f"broke off: {one_line(message, 300)}")

    def _hear(self) -> None:
        self.heard += 1

    def _note_end(self, problem: str) -> None:
        """Note that no more messages come. `problem`: what the server did wrong, or ""."""
        self._problem = self._problem or problem
        self._stop.set()

    async def _live(self) -> None:
        streams = _renumbering(self._transport.streams, self._hear, self._note_end)
        lzero = Implementation(name="lzero", version=__version__)
        try:
            async with Client(streams, client_info=lzero, cache=None) as client:
                self._client.set_result(client)
                await self._stop.wait()
        except Exception as error:
            self._problem = _cause(error)


def _result_of(request: "asyncio.Task[_Answer]") -> _Answer:
    """Return the result of a finished request. Raises Lost for an exception that looks like our own deadline or cancellation."""
    try:
        return request.result()
    except (TimeoutError, asyncio.CancelledError) as error:
        raise Lost(f"failed: {one_line(str(error), 300) or type(error).__name__}") from None


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


@asynccontextmanager
async def _renumbering(
    streams: AbstractAsyncContextManager[Any], on_message: Callable[[], None], on_end: Callable[[str], None]
) -> AsyncIterator[tuple[Incoming, Outgoing]]:
    async with streams as (received, sent):
        incoming = Incoming(received, on_message, on_end)
        yield incoming, Outgoing(sent, incoming)


def _cause(error: BaseException) -> str:
    """Return the first error of a group, as the end of a sentence."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.strerror:
        return (
            f"cannot be started: {error.strerror}: {error.filename}" if error.filename else f"failed: {error.strerror}"
        )
    text = one_line(str(error), 300)
    return f"failed: {text or type(error).__name__}"
