"""A stranger at a server of lzero, and a server that means harm to a client of it: both cost little and hold nobody up."""

import asyncio
import gzip
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from cases import attack
from pool_servers import TOKEN, serving
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Response

from lzero.engine.chat import engine as chat
from lzero.engine.chat.engine import OpenAIChat
from lzero.engine.vllm.server import VLLMServer
from lzero.errors import LzeroError, ReplError
from lzero.protocols import OnCall, Repl, ToolSpec
from lzero.repl.remote import door, link, wire
from lzero.repl.remote import pool as remote
from lzero.repl.remote.pool import RemotePool
from lzero.tools.keys import Secret
from lzero.tools.mcp_servers.server import McpServer
from lzero.tools.mcp_servers.specs import McpSpec
from lzero.tools.retry import Backoff
from lzero.tools.web import WebClient
from lzero.types import Execution, Json, Message, Sampling, Stream

pytestmark = pytest.mark.integration
STRANGER = "127.0.0.2"
"""Another address of this machine."""
PATIENCE_S = 30.0
HEAD = f"GET {wire.PATH} HTTP/1.1\r\nHost: x\r\n".encode()
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    + b"A" * 22
    + b"==\r\n"
)


class NoRepls:
    """A pool without REPLs, which strangers never reach."""

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> Repl:
        raise ReplError("this pool opens none")

    def stats(self) -> Mapping[str, int]:
        return {}

    def facts(self) -> Mapping[str, Json]:
        return {}

    async def close(self) -> None:
        pass


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def connections(port: int) -> int:
    """Return the connections that the server has accepted and still holds."""
    return sum(each.laddr.port == port and bool(each.raddr) for each in psutil.Process().net_connections("tcp"))


async def until_ended(reader: asyncio.StreamReader) -> bytes:
    """Return all data until the other end closes or resets the connection."""
    said = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_S):
            while piece := await reader.read(1 << 16):
                said += piece
    return said


def without_end(piece: Callable[[int], bytes]) -> Iterator[bytes]:
    yield from (piece(number) for number in range(1 << 30))


ENDLESS: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "path": (b"GET /", lambda _: b"a" * 60_000),
    "method": (b"", lambda _: b"A" * 60_000),
    "one header": (HEAD + b"X: ", lambda _: b"a" * 60_000),
    "many headers": (HEAD, lambda number: b"".join(b"X-%d-%d:\r\n" % (number, each) for each in range(5_000))),
    "header lines without a colon": (HEAD, lambda _: b"a\r\n" * 20_000),
    "headers of an upgrade": (HEAD + UPGRADE, lambda number: b"X-%d: " % number + b"a" * 60_000 + b"\r\n"),
    "body": (HEAD + b"Content-Length: 1000000000\r\n\r\n", lambda _: b"a" * 60_000),
    "body in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", lambda _: b"ea60\r\n" + b"a" * 60_000 + b"\r\n"),
    "requests": (b"", lambda _: (HEAD + b"\r\n") * 1_000),
    "frames": (HEAD + UPGRADE + b"\r\n", lambda _: (b"\x82\xfe\xff\xff" + bytes(4 + 0xFFFF)) * 2),
    "empty lines": (b"", lambda _: b"\r\n" * 30_000),
}


@attack(97)
@pytest.mark.parametrize("shape", ENDLESS)
async def test_a_request_without_end_ends_at_some_kilobytes(shape: str) -> None:
    start, piece = ENDLESS[shape]
    async with serving(NoRepls()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server.url))
        before = psutil.Process().memory_info().rss
        writer.write(start)

        async def send() -> None:
            for data in without_end(piece):
                writer.write(data)
                await writer.drain()

        sending = asyncio.create_task(send())
        said = await until_ended(reader)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()
        assert not said or said.startswith(b"HTTP/1.1 401 ")
        assert psutil.Process().memory_info().rss < before + (16 << 20)
        assert await load(server.url)


async def load(url: str) -> bool:
    """Return whether the server still answers a client with the token, and holds no REPL."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
    writer.write(f"GET /load HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    said = await until_ended(reader)
    writer.transport.abort()
    return said.startswith(b"HTTP/1.1 200 ") and b'"repls":0' in said


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "server.pem", directory / "server.key"
    arguments = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    arguments += ["-subj", "/CN=x", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(arguments, check=True, capture_output=True, timeout=60)
    return certificate, key


SILENT: dict[str, bytes] = {
    "nothing": b"",
    "half a line": b"GET /lo",
    "half the headers": HEAD + b"X: y\r\n",
    "half an upgrade": HEAD + UPGRADE,
    "a whole request": HEAD + b"\r\n",
}


@attack(98)
@pytest.mark.parametrize("said", SILENT)
@pytest.mark.parametrize("tls", ["", "tls", "in the middle of the TLS handshake"])
async def test_whoever_shows_no_token_is_let_go_of_in_time(
    said: str,
    tls: str,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "STRANGER_S", 0.3)
    files: dict[str, Any] = dict(zip(("certificate", "key"), certificate, strict=True)) if tls else {}
    context = ssl.create_default_context(cafile=str(certificate[0])) if tls == "tls" else None
    if context is not None:
        context.check_hostname = False
    hello = b"\x16\x03\x01\x02\x00\x01" if tls.startswith("in") else b""
    async with serving(NoRepls(), **files) as server, asyncio.timeout(PATIENCE_S):
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server.url), ssl=context)
        writer.write(hello + SILENT[said])
        while connections(port_of(server.url)):
            await asyncio.sleep(0.01)
        writer.transport.abort()


@attack(98)
async def test_a_request_that_trickles_is_let_go_of_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "STRANGER_S", 0.3)
    async with serving(NoRepls()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server.url))

        async def trickle() -> None:
            for data in without_end(lambda number: HEAD[number : number + 1] or b"a"):
                writer.write(data)
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        assert not await until_ended(reader)
        trickling.cancel()
        writer.transport.abort()


@attack(98)
async def test_strangers_without_number_shut_nobody_out() -> None:
    async with serving(NoRepls()) as server, asyncio.timeout(PATIENCE_S):
        port = port_of(server.url)
        strangers = [await from_elsewhere(port) for _ in range(3 * door.STRANGERS)]
        async with RemotePool((server.url,), token=TOKEN) as servers:
            for _ in range(door.STRANGERS):  # it keeps its connection, however many follow
                strangers.append(await from_elsewhere(port))
            while connections(port) > door.STRANGERS + 1:
                await asyncio.sleep(0.01)
            with pytest.raises(ReplError, match="this pool opens none"):
                await servers.open((), nobody, seed=0)
        for stranger in strangers:
            stranger.close()
        while connections(port):
            await asyncio.sleep(0.01)


async def nobody(name: str, arguments: dict[str, Json]) -> Json:
    return None


async def from_elsewhere(port: int) -> socket.socket:
    """Return a silent connection from another address."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.bind((STRANGER, 0))
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return connection


@attack(98)
async def test_wrong_tokens_in_a_row_leave_nothing_and_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    wrong = f"GET /load HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}x\r\n\r\n".encode()
    async with serving(NoRepls()) as server, asyncio.timeout(PATIENCE_S):
        for _ in range(300):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server.url))
            writer.write(wrong)
            assert (await until_ended(reader)).startswith(b"HTTP/1.1 401 ")
            writer.close()
        while connections(port_of(server.url)):
            await asyncio.sleep(0.01)
        assert await load(server.url)
    lines = [
        record.getMessage()
        for record in caplog.records
        if "is refused: its token is another one" in record.getMessage()
    ]
    assert 1 <= len(lines) < 150
    assert TOKEN not in caplog.text


# A server that means harm


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
BOMB = gzip.compress(gzip.compress(bytes(256 << 20), 1), 1)
ANSWERS: dict[str, tuple[bytes, bytes]] = {
    "status": (b"HTTP/1.1 200 ", b"a" * 60_000),
    "one header": (b"HTTP/1.1 200 OK\r\nX: ", b"a" * 60_000),
    "many headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000),
    "chunk": (STREAM + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"a" * 60_000),
    "line": (STREAM + b"\r\ndata: ", b"a" * 60_000),
    "event": (STREAM + b"\r\n", (b"data: " + b"a" * 1_000 + b"\r\n") * 60),
    "object": (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[", b"0," * 30_000),
    "error": (b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\n\r\n[", b"0," * 30_000),
    "an encoding of bytes": (
        b"HTTP/1.1 400 Bad\r\nContent-Type: text/plain; charset=zlib\r\nContent-Length: 3\r\n\r\nabc",
        b"",
    ),
    "an encoding that takes the square": (
        b"HTTP/1.1 400 Bad\r\nContent-Type: text/plain; charset=punycode\r\nContent-Length: 400000\r\n\r\n"
        + b"a" * 400_000,
        b"",
    ),
    "bomb": (STREAM + b"Content-Encoding: gzip, gzip\r\n\r\n" + BOMB, b""),
    "redirect": (b"HTTP/1.1 307 Over There\r\nLocation: /v1/here\r\nContent-Length: 0\r\n\r\n", b""),
}


@asynccontextmanager
async def answering(start: bytes, piece: bytes) -> AsyncIterator[int]:
    """Yield the port of a server that answers every request with `start`, then endlessly with `piece`."""
    served: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(start)
            while piece:
                writer.write(piece)
                await writer.drain()
        writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.create_task(answer(reader, writer)))

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


async def chats(port: int) -> None:
    model = OpenAIChat("m", base_url=f"http://127.0.0.1:{port}/v1", key=Secret("k" * 20))
    try:
        await model.reply((Message(role="user", content="?"),), Sampling(), request_id="r", deadline_s=PATIENCE_S)
    finally:
        await model.close()


async def samples(port: int) -> None:
    server = VLLMServer("the server", url=f"http://127.0.0.1:{port}")
    try:
        await server.generate([1], Sampling(), stop_ids=[], request_id="r", deadline_s=PATIENCE_S)
    finally:
        await server.close()


async def calls_a_tool(port: int) -> None:
    async with McpServer(McpSpec(name="x", url=f"http://127.0.0.1:{port}/mcp"), connect_s=PATIENCE_S):
        pass


async def reads_a_page(port: int) -> None:
    await WebClient(allow_hosts=[f"127.0.0.1:{port}"]).fetch(f"http://127.0.0.1:{port}/")


async def opens_a_pool(port: int) -> None:
    async with RemotePool((f"ws://127.0.0.1:{port}",), token=TOKEN):
        pass


@attack(99)
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("client", [chats, samples, calls_a_tool, reads_a_page, opens_a_pool])
async def test_an_answer_without_end_ends_in_time(
    client: Callable[[int], Awaitable[None]], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is cut at its limit is a page; all else is an error of ours, with what happened."""
    monkeypatch.setattr(link, "_CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(chat, "WAITS", Backoff(first_s=0.001))
    before = psutil.Process().memory_info().rss
    told = ""
    async with answering(*ANSWERS[answer]) as port, asyncio.timeout(PATIENCE_S):
        try:
            await client(port)
        except LzeroError as error:
            told = str(error)
    assert len(told) < 2_000
    assert told or client is reads_a_page
    assert psutil.Process().memory_info().rss < before + (64 << 20)


@attack(99)
@pytest.mark.parametrize("frames", ["pings", "pieces"])
async def test_a_pool_server_that_floods_beneath_the_messages_is_lost(
    frames: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pings whose answers it does not take, or a message in pieces without end."""
    monkeypatch.setattr(remote, "_OPEN_TIMEOUT_S", 2.0)

    async def flood(connection: ServerConnection) -> None:
        welcome = wire.Welcome(
            lease_s=wire.MAX_DEADLINE_S, file_bytes=1, facts=b"{}", load=wire.Load(repls=0, max_repls=1)
        )
        await connection.send(wire.encode(welcome))
        connection.transport.pause_reading()
        connection.transport.write(b"\x02\x00")  # the first piece
        while True:
            connection.transport.write((b"\x89\x7d" + bytes(125) if frames == "pings" else b"\x00\x00") * 1_000)
            await connection.drain()

    before = psutil.Process().memory_info().rss
    async with serve(
        flood, "127.0.0.1", 0, process_response=name_version, ping_interval=None, close_timeout=0.1
    ) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ReplError, match=r"was lost|no pool server is available"):
            async with RemotePool((url,), token=TOKEN) as servers, asyncio.timeout(PATIENCE_S):
                await servers.open((), nobody, seed=0)
    assert psutil.Process().memory_info().rss < before + (32 << 20)


@attack(99)
async def test_a_pool_server_that_sends_more_than_a_cell_can_put_out_breaks_the_protocol() -> None:
    """Text is cleaned on the event loop, at a second for a million characters."""

    async def send_too_much(connection: ServerConnection) -> None:
        load = wire.Load(repls=0, max_repls=1)
        await connection.send(wire.encode(wire.Welcome(lease_s=60.0, file_bytes=1, facts=b"{}", load=load)))
        async for data in connection:
            assert isinstance(data, bytes)
            match wire.decode_client(data):
                case wire.Open(id=number):
                    await connection.send(wire.encode(wire.Opened(id=number, load=load)))
                case wire.Close(id=number):
                    await connection.send(wire.encode(wire.Closed(id=number, load=load)))
                case wire.Run(id=number):
                    outputs = (Stream(name="stdout", text="x" * 7_000_000),)
                    execution = Execution(outputs=outputs, status="ok", duration_s=0.0)
                    await connection.send(wire.encode(wire.Done(id=number, execution=execution)))

    async with serve(send_too_much, "127.0.0.1", 0, process_response=name_version, close_timeout=0.1) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with RemotePool((url,), token=TOKEN) as servers, asyncio.timeout(PATIENCE_S):
            repl = await servers.open((), nobody, seed=0)
            with pytest.raises(ReplError, match="7,000,000 characters"):
                await repl.run("1", deadline_s=5.0)


def name_version(connection: ServerConnection, request: object, response: Response) -> None:
    response.headers[wire.VERSION_HEADER] = str(wire.VERSION)
