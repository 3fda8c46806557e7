"""A client that holds the token and means harm, and a server that does: neither costs the other more than itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import psutil
import pytest
from pool_servers import TOKEN, serving
from repl_sessions import no_tools
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed

from lzero.errors import PoolFull, ProtocolError, ReplDied, ReplError, SandboxError
from lzero.protocols import Repl
from lzero.repl import LocalPool, LocalRepl
from lzero.repl.remote import pool as remote
from lzero.repl.remote import wire
from lzero.repl.remote.pool import RemotePool
from lzero.repl.wire import MAX_FRAME
from lzero.types import WorkspaceFile

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]
LOAD = wire.Load(repls=0, max_repls=8)
_BINARY, _PIECE, _PING, _PONG, _LAST = 0x02, 0x00, 0x09, 0x0A, 0x80
Talk = Callable[[ServerConnection], Awaitable[None]]


# A client


async def test_a_number_that_is_used_again_hides_no_repl(pool: LocalPool) -> None:
    """Opened, closed and opened again under one number, faster than the first is there: the second is closed with its client."""
    opening = wire.Open(id=1, tools=(), seed=0)
    headers = {"Authorization": f"Bearer {TOKEN}", wire.VERSION_HEADER: str(wire.VERSION)}
    async with serving(pool, max_repls=2) as server:
        async with connect(server.url + wire.PATH, additional_headers=headers, proxy=None) as connection:
            for message in (opening, wire.Close(id=2, repl=1), opening):
                await connection.send(wire.encode(message))
            opened = 0
            load = wire.Load(repls=-1, max_repls=2)
            async with asyncio.timeout(20.0):
                while not (opened and load.repls == 1):
                    said = wire.decode_server(await connection.recv(decode=False))
                    opened += isinstance(said, wire.Opened)
                    if isinstance(said, wire.Opened | wire.Closed):
                        load = said.load
                    await connection.send(wire.encode(wire.Beat()))
            assert pool.stats()["open"] == 1
        async with asyncio.timeout(20.0):
            while pool.stats()["open"]:
                await asyncio.sleep(0.01)


def _frame(kind: int, payload: bytes = b"") -> bytes:
    return bytes([kind, 0x80 | len(payload), 0, 0, 0, 0]) + payload


@pytest.mark.parametrize(
    "flood", [_frame(_PIECE), _frame(_PIECE) + _frame(_PONG | _LAST), _frame(_PING | _LAST, bytes(125))]
)
async def test_a_client_that_floods_beneath_the_messages_is_cut_off(pool: LocalPool, flood: bytes) -> None:
    """A message in pieces without end, or pings whose answers nobody reads."""
    async with serving(pool) as server:
        writer = await _handshaken(server.url)
        before = psutil.Process().memory_info().rss
        writer.write(_frame(_BINARY))

        async def send() -> None:
            while True:
                writer.write(flood * 1000)
                await writer.drain()

        async with asyncio.timeout(20.0):
            with pytest.raises(ConnectionError):
                await send()
        writer.transport.abort()
        assert psutil.Process().memory_info().rss < before + (32 << 20)


async def test_a_client_that_reads_nothing_leaves_no_connection(pool: LocalPool) -> None:
    async with serving(pool, lease_s=0.5) as server:
        writer = await _handshaken(server.url)
        beats = _frame(_BINARY | _LAST, wire.encode(wire.Beat())) * 1000

        async def send() -> None:
            while True:
                writer.write(beats)
                await writer.drain()

        async with asyncio.timeout(20.0):
            sending = asyncio.create_task(send())
            port = int(server.url.rpartition(":")[2])
            while _connected_to(port):
                await asyncio.sleep(0.05)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()


async def test_a_client_that_reads_nothing_and_goes_on_talking_is_let_go_of(pool: LocalPool) -> None:
    """It asks for two files, part by part, until every buffer is full, and then for more."""
    fill = "with open('large', 'wb') as file:\n    size = file.write(bytes(8 << 20))"
    headers = {"Authorization": f"Bearer {TOKEN}", wire.VERSION_HEADER: str(wire.VERSION)}
    async with serving(pool, lease_s=1.0) as server:
        place = server.url + wire.PATH
        async with connect(place, additional_headers=headers, proxy=None, ping_interval=None) as connection:

            async def ask(*messages: wire.FromClient) -> None:
                for message in messages:
                    await connection.send(wire.encode(message))

            async def talk() -> None:
                with suppress(ConnectionClosed):
                    while True:
                        await ask(wire.More(id=21), wire.More(id=22))
                        await asyncio.sleep(0.1)

            talking = asyncio.create_task(talk())
            async with asyncio.timeout(60.0):
                for repl in (1, 2):
                    await ask(wire.Open(id=repl, tools=(), seed=0))
                    await _heard(connection, wire.Opened)
                    await ask(wire.Run(id=10 + repl, repl=repl, code=fill, deadline_s=30.0))
                    assert (await _heard(connection, wire.Done)).execution.status == "ok"
            connection.transport.pause_reading()
            await ask(wire.Get(id=21, repl=1, path="large"), wire.Get(id=22, repl=2, path="large"))
            async with asyncio.timeout(20.0):
                while pool.stats()["open"] or _connected_to(int(server.url.rpartition(":")[2])):
                    await asyncio.sleep(0.05)
            talking.cancel()
            connection.transport.abort()


_Said = TypeVar("_Said", bound=wire.FromServer)


async def _heard(connection: ClientConnection, kind: type[_Said]) -> _Said:
    """Return the next message of this kind."""
    while True:
        said = wire.decode_server(await connection.recv(decode=False))
        if isinstance(said, kind):
            return said


def _connected_to(port: int) -> bool:
    """Return whether the server's end of a connection is open."""
    connections = psutil.Process().net_connections("tcp")
    return any(each.laddr.port == port and each.raddr for each in connections)


async def _handshaken(url: str) -> asyncio.StreamWriter:
    """Return a connection that reads nothing more."""
    host, port = url.removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 12)
    headers = f"Host: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    headers += f"Sec-WebSocket-Key: {'A' * 22}==\r\nAuthorization: Bearer {TOKEN}\r\n"
    headers += f"{wire.VERSION_HEADER}: {wire.VERSION}\r\n"
    writer.write(f"GET {wire.PATH} HTTP/1.1\r\n{headers}\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return writer


async def test_a_repl_that_cannot_be_closed_in_order_keeps_nobody_waiting(
    pool: LocalPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close = LocalRepl.close

    async def fail(repl: LocalRepl) -> None:
        await close(repl)
        raise SandboxError("its directory cannot be removed")

    async with serving(pool, max_repls=1) as server, RemotePool((server.url,), token=TOKEN) as servers:
        monkeypatch.setattr(LocalRepl, "close", fail)
        for _ in range(2):  # there is room again
            repl = await servers.open((), no_tools, seed=0)
            async with asyncio.timeout(20.0):
                await repl.close()
        assert "not closed in order" in caplog.text
        monkeypatch.undo()


# A server


@asynccontextmanager
async def _server(talk: Talk, *, lease_s: float = 30.0) -> AsyncIterator[str]:
    """Yield a server that sends any messages."""

    async def greet(connection: ServerConnection) -> None:
        welcome = wire.Welcome(lease_s=lease_s, file_bytes=1 << 20, facts=b"{}", load=LOAD)
        with suppress(ConnectionClosed):
            await connection.send(wire.encode(welcome))
            await talk(connection)

    def name_version(connection: ServerConnection, request: object, response: object) -> None:
        headers: Headers = response.headers  # type: ignore[attr-defined] # the library's own
        headers[wire.VERSION_HEADER] = str(wire.VERSION)

    async with serve(
        greet,
        "127.0.0.1",
        0,
        process_response=name_version,
        max_size=wire.MAX_MESSAGE,
        compression=None,
        ping_interval=None,
        close_timeout=0.1,
    ) as server:
        (listener, *_) = server.sockets
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"


def _usual(message: wire.FromClient) -> wire.FromServer | None:
    match message:
        case wire.Beat():
            return LOAD
        case wire.Open():
            return wire.Opened(id=message.id, load=LOAD)
        case wire.Close():
            return wire.Closed(id=message.id, load=LOAD)
        case _:
            return None


def _answering(answer: Callable[[wire.FromClient], wire.FromServer | None]) -> Talk:
    async def talk(connection: ServerConnection) -> None:
        while True:
            said = answer(wire.decode_client(await connection.recv(decode=False)))
            if said is not None:
                await connection.send(wire.encode(said))

    return talk


async def test_a_server_that_talks_and_takes_nothing_is_lost() -> None:
    async def talk(connection: ServerConnection) -> None:
        opening = wire.decode_client(await connection.recv(decode=False))
        assert isinstance(opening, wire.Open)
        connection.transport.pause_reading()
        await connection.send(wire.encode(wire.Opened(id=opening.id, load=LOAD)))
        while True:
            await connection.send(wire.encode(LOAD))
            await asyncio.sleep(0.05)

    async with _server(talk, lease_s=2.0) as url, RemotePool((url,), token=TOKEN) as servers, asyncio.timeout(30.0):
        repl = await servers.open((), no_tools, seed=0)
        with pytest.raises(ReplDied, match="it took nothing for 2 s"):
            await repl.run("#" * MAX_FRAME, deadline_s=1.0)
        await repl.close()


async def test_a_server_that_is_full_and_says_that_it_is_not_has_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(message: wire.FromClient) -> wire.FromServer | None:
        if isinstance(message, wire.Open):
            return wire.failure(message.id, PoolFull("full"), LOAD)
        return _usual(message)

    monkeypatch.setattr(remote, "_OPEN_TIMEOUT_S", 0.5)
    async with _server(_answering(answers)) as url, RemotePool((url,), token=TOKEN) as servers, asyncio.timeout(20.0):
        with pytest.raises(ReplError, match=r"no REPL became free within 0\.5 s"):
            await servers.open((), no_tools, seed=0)


async def test_a_file_without_end_is_refused_both_ways() -> None:
    def answers(message: wire.FromClient) -> wire.FromServer | None:
        match message:
            case wire.Get() | wire.More():
                return wire.Part(id=message.id, data=b"", last=False)
            case wire.Put() | wire.Part():
                return wire.More(id=message.id)
            case wire.Files():
                return wire.Listing(id=message.id, files=(WorkspaceFile(path="../../etc/passwd", size=1),))
            case _:
                return _usual(message)

    async with _server(_answering(answers)) as url, RemotePool((url,), token=TOKEN) as servers, asyncio.timeout(20.0):
        asks: tuple[tuple[Callable[[Repl], Awaitable[object]], str], ...] = (
            (lambda repl: repl.get("x"), "0 bytes in the middle of a file"),
            (lambda repl: repl.put("x", b"y"), "More where Stored was due"),
            (lambda repl: repl.files(), "no file of a workspace"),
        )
        for ask, why in asks:
            repl = await servers.open((), no_tools, seed=0)
            with pytest.raises(ProtocolError, match=why):
                await ask(repl)
            with pytest.raises(ReplDied):
                await repl.run("1", deadline_s=1.0)
