"""Open REPLs on other machines, where `lzero pool serve` runs, as if they were local."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from lzero.closing import Service, closed_on_error
from lzero.errors import (
    ForkRefused,
    LzeroError,
    PoolFull,
    ProtocolError,
    ReplDied,
    ReplError,
    ToolError,
    WorkspaceError,
)
from lzero.protocols import OnCall, ToolSpec, ToolStub, stub_of
from lzero.repl.cells import Ending
from lzero.repl.files import Arriving, checked, workspace_path
from lzero.repl.remote import wire
from lzero.repl.remote.link import Inbox, Link
from lzero.repl.remote.rotation import Rotation, Server
from lzero.types import Execution, Json, WorkspaceFile

logger = logging.getLogger(__name__)
_OPEN_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 120.0
"""Seconds that the server may take in addition to a cell's own: to interrupt it, to kill it, to close it."""
_Expected = TypeVar("_Expected", bound=wire.Response)
START_S = 120.0
"""Seconds in which the first server of an address file must answer."""
WATCH_S = 1.0
"""Seconds between two looks at the address file."""


class RemotePool(Service):
    """Pool of REPLs on several servers; implements `ReplPool`.

        async with RemotePool(("ws://host:7321",), token=token) as pool: …

    A REPL opens on the server with the most room. If a server is lost, its REPLs raise ServerLost, which names it. The pool then leaves the
    server out, and retries it with growing pauses. It refuses a server whose REPLs live for less than `session_s` seconds.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        token: str,
        tls: ssl.SSLContext | None = None,
        session_s: float = 0.0,
        watch: Callable[[], Sequence[str] | None] | None = None,
    ) -> None:
        """`session_s`: seconds that a REPL may be needed for. `watch`, called each second in a thread, returns the servers to
        use from now on; None: the same.
        """
        self._servers = Rotation(urls, token=token, tls=tls, session_s=session_s)
        self._watch = watch
        self._watching: asyncio.Task[None] | None = None
        self._repls: set[RemoteRepl] = set()
        self._opened = 0
        self._closed = False

    async def start(self) -> None:
        """Connect to every server. If only some do not answer, log a warning and retry them later.

        Raises ReplError if no server answers in time, or one refuses the client (token, version, certificate) or ends its REPLs too early.
        """
        async with closed_on_error(self.close):
            await self._servers.start()
            if self._watch is not None:
                self._watching = asyncio.create_task(self._follow(self._watch))
                await self._one_lives(asyncio.get_running_loop().time() + START_S)
            elif not self._servers.living:
                raise ReplError(self._servers.why_none())

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> "RemoteRepl":
        """Open a REPL on the living server with the most room. Waits while no server lives.

        Raises ReplError if none lives in time, PoolFull if none has room in time.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _OPEN_TIMEOUT_S
        told = tuple(map(stub_of, tools))
        while True:
            await self._one_lives(until)
            server = self._servers.roomiest()
            if server is None or loop.time() > until:  # a server may be lost repeatedly, or report a wrong load
                await self._room(until)
                continue
            try:
                repl = await _open_on(server, told, on_call, seed)
            except PoolFull:
                continue  # its reported load is up to date now
            except ReplDied:
                if server.lives:  # the REPL died, not its server
                    raise
                continue
            self._keep(repl)
            if self._closed:
                await repl.close()
                continue
            return repl

    def _keep(self, repl: "RemoteRepl") -> None:
        self._opened += 1
        self._repls.add(repl)
        repl.on_fork = self._keep
        repl.on_close = lambda: self._repls.discard(repl)

    async def close(self) -> None:
        """Close every REPL and disconnect; the servers go on."""
        self._closed = True
        self._servers.news.set()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*(repl.close() for repl in list(self._repls)))
        await self._servers.close()

    def stats(self) -> Mapping[str, float]:
        """Return this client's REPLs `open` now and `opened` in all, the living `servers`, and the `load` (0 to 1) that each reports."""
        loads = {f"load of {server.url}": server.load for server in self._servers.living}
        return {"open": len(self._repls), "opened": self._opened, "servers": len(loads), **loads}

    def facts(self) -> Mapping[str, Json]:
        """Return what isolates the REPLs on each server that has answered, and the `tier`, or tiers, of all."""
        servers: dict[str, Json] = {server.url: dict(server.facts) for server in self._servers.all if server.facts}
        tiers = {str(server.facts.get("tier")) for server in self._servers.all if server.facts}
        return {"tier": ", ".join(sorted(tiers)), "servers": servers}

    async def _follow(self, watch: Callable[[], Sequence[str] | None]) -> None:
        """Use the servers that `watch` returns."""
        while True:
            await asyncio.sleep(WATCH_S)
            if (urls := await asyncio.to_thread(watch)) is not None:
                logger.warning("pool servers are now: %s", ", ".join(urls) or "none")
                self._servers.name(urls)

    async def _one_lives(self, until: float) -> None:
        """Wait until a server lives. Raises ReplError when the time is over, or the pool is closed."""
        try:
            async with asyncio.timeout_at(until):
                while not self._servers.living and not self._closed:
                    self._servers.news.clear()
                    await self._servers.news.wait()
        except TimeoutError:
            raise ReplError(self._servers.why_none()) from None
        if self._closed:
            raise ReplError("the pool is closed")

    async def _room(self, until: float) -> None:
        """Wait for news of any server. Raises PoolFull when the time is over."""
        self._servers.news.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._servers.news.wait()
        except TimeoutError:
            urls = ", ".join(server.url for server in self._servers.living)
            raise PoolFull(
                f"no REPL became free within {_OPEN_TIMEOUT_S:g} s on {urls}: lower "
                "rollout.concurrency, or raise --max-repls on the servers"
            ) from None


async def _open_on(server: Server, tools: tuple[ToolStub, ...], on_call: OnCall, seed: int) -> "RemoteRepl":
    """Open a REPL on a living server. Raises PoolFull; ReplDied if the link is lost meanwhile; ReplError."""
    link = server.link
    assert link is not None
    inbox = link.inbox()
    repl = RemoteRepl(link, inbox.number, on_call)
    server.asked += 1
    try:
        await link.send(wire.Open(id=inbox.number, tools=tools, seed=seed))
        await inbox.get(within_s=_ANSWER_TIMEOUT_S)
    except BaseException as error:
        if not isinstance(error, PoolFull):
            repl.abandon()
        raise
    finally:
        server.asked -= 1
        link.forget(inbox)
    return repl


class RemoteRepl:
    """A REPL on a server. `RemotePool.open` makes it; it behaves like `LocalRepl`."""

    def __init__(self, link: Link, number: int, on_call: OnCall) -> None:
        self._link = link
        self._number = number
        self._on_call = on_call
        self._ending = Ending()
        self._reading = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None
        self.on_close: Callable[[], None] = lambda: None
        self.on_fork: Callable[[RemoteRepl], None] = lambda _: None

    async def run(self, code: str, *, deadline_s: float) -> Execution:
        """Run one cell, like `LocalRepl.run`. The server enforces the deadline; this end only notices a server that does not."""
        within_s = deadline_s + _ANSWER_TIMEOUT_S
        async with self._request("cell") as inbox:
            await self._link.send(wire.run(inbox.number, self._number, code, deadline_s))
            while isinstance(message := await inbox.get(within_s=within_s), wire.Call):
                await self._answer(message)
            execution = self._due(wire.Done, message).execution
            wire.check_execution(execution)
        if execution.status == "killed":
            self._ending.why = execution.reason
        return execution

    async def fork(self, on_call: OnCall, *, seed: int) -> "RemoteRepl":
        async with self._request("fork", ForkRefused) as inbox:
            copy = RemoteRepl(self._link, inbox.number, on_call)
            try:
                await self._link.send(wire.Fork(id=inbox.number, repl=self._number, seed=seed))
                self._due(wire.Opened, await inbox.get(within_s=_ANSWER_TIMEOUT_S))
            except BaseException as error:
                copy.abandon()
                if isinstance(error, PoolFull):
                    raise ForkRefused(f"{self._link.url} has no room for a copy: raise --max-repls there") from None
                raise
        self.on_fork(copy)
        return copy

    async def put(self, path: str, data: bytes) -> None:
        target = workspace_path(path)
        if len(data) > self._link.file_bytes:
            raise WorkspaceError(
                f"{target!r}: {len(data):,} bytes exceed the limit of {self._link.file_bytes:,} for a file; "
                f"raise repl.file_mb on {self._link.url}"
            )
        async with self._link.transfers.turn(), self._request("transfer", WorkspaceError) as inbox:
            await self._link.send(wire.Put(id=inbox.number, repl=self._number, path=target, size=len(data)))
            start, last = 0, False
            while isinstance(message := await inbox.get(within_s=_ANSWER_TIMEOUT_S), wire.More) and not last:
                end = start + wire.PART_BYTES
                last = end >= len(data)
                await self._link.send(wire.Part(id=inbox.number, data=data[start:end], last=last))
                start = end
            self._due(wire.Stored, message)

    async def get(self, path: str) -> bytes:
        target = workspace_path(path)
        async with self._transfer() as inbox:
            await self._link.send(wire.Get(id=inbox.number, repl=self._number, path=target))
            arriving = Arriving(wire.PART_BYTES, self._link.file_bytes)
            while True:
                part = self._due(wire.Part, await inbox.get(within_s=_ANSWER_TIMEOUT_S))
                if (whole := arriving.add(part.data, last=part.last)) is not None:
                    return whole
                await self._link.send(wire.More(id=inbox.number))

    async def files(self) -> tuple[WorkspaceFile, ...]:
        async with self._request("transfer", WorkspaceError) as inbox:
            await self._link.send(wire.Files(id=inbox.number, repl=self._number))
            return checked(self._due(wire.Listing, await inbox.get(within_s=_ANSWER_TIMEOUT_S)).files)

    async def close(self) -> None:
        """End the REPL on its server. Return when nothing of it is left there, or the server is lost. Safe to call twice."""
        self._ending.why = self._ending.why or "it was closed"
        self.abandon()
        assert self._closing is not None
        await asyncio.shield(self._closing)

    def abandon(self) -> None:
        """Begin to close the REPL, without waiting."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())

    async def _close(self) -> None:
        inbox = self._link.inbox()
        try:
            await self._link.send(wire.Close(id=inbox.number, repl=self._number))
            await inbox.get(within_s=_ANSWER_TIMEOUT_S)
        except ReplError as error:
            logger.debug("a REPL was closed by its server's end: %s", error)  # with the server, or its lease
        finally:
            self._link.forget(inbox)
            self.on_close()

    @asynccontextmanager
    async def _transfer(self) -> AsyncIterator[Inbox]:
        """Begin a request like `_request`. During a tool call of a cell, it runs beside the request of that cell."""
        if not self._ending.in_call:
            async with self._link.transfers.turn(), self._request("transfer", WorkspaceError) as inbox:
                yield inbox
            return
        async with self._reading, self._link.transfers.turn():
            inbox = self._link.inbox()
            try:
                yield inbox
            finally:
                self._link.forget(inbox)

    @asynccontextmanager
    async def _request(self, what: str, *refusals: type[LzeroError]) -> AsyncIterator[Inbox]:
        """Begin the only request of this REPL. If it does not complete, the REPL is closed on its server."""
        self._ending.check()
        inbox = self._link.inbox()
        try:
            with self._ending.unless_done(what, *refusals):
                yield inbox
        finally:
            self._link.forget(inbox)
            if self._ending.why:
                self.abandon()

    def _due(self, kind: type[_Expected], message: wire.Response) -> _Expected:
        if not isinstance(message, kind):
            raise ProtocolError(f"{self._link.url}: {type(message).__name__} where {kind.__name__} was due")
        return message

    async def _answer(self, call: wire.Call) -> None:
        try:
            with self._ending.call():
                value = await self._on_call(call.name, wire.arguments_of(call))
        except (ToolError, ReplError) as error:  # ReplError: the session broke in a transfer
            reply = wire.Reply(id=call.id, error=str(error).encode("utf-8", "replace").decode())
        else:
            try:
                reply = wire.Reply(id=call.id, value=wire.dump(value))
            except wire.UNSENDABLE as error:
                reply = wire.Reply(id=call.id, error=f"the answer cannot be sent: {error}")
        await self._link.send(reply)
