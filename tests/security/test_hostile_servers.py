"""A server that means harm to a client of it: it costs little and holds nobody up."""

import asyncio
import gzip
import math
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from cases import attack
from pool_servers import TOKEN
from strangers import PATIENCE_S, nobody
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Response

from lzero.engine.chat import engine as chat
from lzero.engine.chat.engine import OpenAIChat
from lzero.engine.vllm.server import VLLMServer
from lzero.errors import LzeroError, ReplError, ToolError
from lzero.repl.remote import link, wire
from lzero.repl.remote import pool as remote
from lzero.repl.remote.pool import RemotePool
from lzero.tools.keys import Secret
from lzero.tools.mcp_servers.http import BoundedClient
from lzero.tools.mcp_servers.server import McpServer
from lzero.tools.mcp_servers.specs import McpSpec
from lzero.tools.retry import Backoff
from lzero.tools.web import WebClient
from lzero.types import Execution, Message, Sampling, Stream

pytestmark = pytest.mark.integration
ODD_MCP_SERVER = Path(__file__).parents[1] / "support" / "odd_mcp_server.py"


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
async def test_an_mcp_server_that_asks_without_end_is_lost() -> None:
    """The SDK keeps a task for each request until the server takes its answer."""
    before = len(asyncio.all_tasks())
    async with McpServer(McpSpec(name="odd", command=(sys.executable, str(ODD_MCP_SERVER)))) as server:
        with pytest.raises(ToolError, match="'odd' sent 101 requests without taking an answer"):
            await server.call("ask", {})
        assert await server.call("again", {})  # of a new one
        assert len(asyncio.all_tasks()) < before + 50


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


EXECUTIONS: dict[str, Execution] = {
    "7,000,000 characters": Execution(
        outputs=(Stream(name="stdout", text="x" * 7_000_000),), status="ok", duration_s=0.0
    ),
    "100,000 outputs": Execution(outputs=(Stream(name="stdout", text=""),) * 100_000, status="ok", duration_s=0.0),
    "a reason of 7,000,000 characters": Execution(outputs=(), status="killed", reason="x" * 7_000_000, duration_s=0.0),
    "a cell of nan s": Execution(outputs=(), status="ok", duration_s=math.nan),
}


@asynccontextmanager
async def hostile_pool(execution: Execution, *, file_bytes: int = 1) -> AsyncIterator[RemotePool]:
    """Yield a pool on a server that answers each cell with `execution`."""

    async def answer(connection: ServerConnection) -> None:
        load = wire.Load(repls=0, max_repls=1)
        await connection.send(wire.encode(wire.Welcome(lease_s=60.0, file_bytes=file_bytes, facts=b"{}", load=load)))
        async for data in connection:
            assert isinstance(data, bytes)
            match wire.decode_client(data):
                case wire.Open(id=number):
                    await connection.send(wire.encode(wire.Opened(id=number, load=load)))
                case wire.Close(id=number):
                    await connection.send(wire.encode(wire.Closed(id=number, load=load)))
                case wire.Run(id=number):
                    await connection.send(wire.encode(wire.Done(id=number, execution=execution)))

    async with serve(answer, "127.0.0.1", 0, process_response=name_version, close_timeout=0.1) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with RemotePool((url,), token=TOKEN) as servers, asyncio.timeout(PATIENCE_S):
            yield servers


@attack(99)
@pytest.mark.parametrize("problem", EXECUTIONS)
async def test_a_pool_server_that_sends_more_than_a_cell_can_put_out_breaks_the_protocol(problem: str) -> None:
    """Text is cleaned on the event loop, at a second for a million characters."""
    async with hostile_pool(EXECUTIONS[problem]) as servers:
        repl = await servers.open((), nobody, seed=0)
        with pytest.raises(ReplError, match=problem):
            await repl.run("1", deadline_s=5.0)


@attack(99)
async def test_a_pool_server_that_announces_files_of_any_size_is_refused() -> None:
    """A client keeps what has come of a file until its end."""
    with pytest.raises(ReplError, match=r"not a message of a server"):
        async with hostile_pool(EXECUTIONS["a cell of nan s"], file_bytes=1 << 60):
            pass


def name_version(connection: ServerConnection, request: object, response: Response) -> None:
    response.headers[wire.VERSION_HEADER] = str(wire.VERSION)


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
FLOODS: dict[str, tuple[bytes, bytes]] = {
    "chunks of one byte": (STREAM + CHUNKED, b"1\r\n:\r\n" * 20_000),
    "comments": (STREAM + b"\r\n", b":\n\n" * 30_000),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000),
    "empty members": (STREAM + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"") * 10_000),
}
"""Few bytes that take long."""


async def longest_turn(work: Awaitable[object]) -> float:
    """Return the most processor seconds that the event loop's thread spent between two turns of another task."""
    turns = [time.thread_time()]
    working = asyncio.ensure_future(work)
    while not working.done():
        await asyncio.sleep(0)
        turns.append(time.thread_time())
    return max(after - before for before, after in pairwise(turns))


@attack(107)
@pytest.mark.parametrize("flood", FLOODS)
async def test_a_page_that_takes_long_to_read_holds_up_nobody(flood: str) -> None:
    async with answering(*FLOODS[flood]) as port:
        client = WebClient(timeout_s=1.0, allow_hosts=[f"127.0.0.1:{port}"])

        async def read() -> None:
            with suppress(LzeroError):
                await client.fetch(f"http://127.0.0.1:{port}/")

        await read()  # TLS, which reads the system's certificates
        assert await longest_turn(read()) < 0.1


@attack(107)
@pytest.mark.parametrize("flood", ["chunks of one byte", "comments"])
async def test_a_reply_that_takes_long_to_read_holds_up_nobody(flood: str) -> None:
    """An engine's, a judge's and an MCP server's."""
    async with answering(*FLOODS[flood]) as port:
        engine = OpenAIChat("m", base_url=f"http://127.0.0.1:{port}/v1", max_tries=1)

        async def ask() -> None:
            with suppress(LzeroError):
                await engine.reply([Message(role="user", content="?")], Sampling(), request_id="1", deadline_s=1.0)

        async def call() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0), BoundedClient({}, read_s=1.0) as client:
                    await client.get(f"http://127.0.0.1:{port}/")

        assert await longest_turn(ask()) < 0.1
        assert await longest_turn(call()) < 0.3  # the SDK takes some of it to connect
        await engine.close()
