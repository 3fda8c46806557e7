"""A stranger at a server of lzero costs little and holds nobody up."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from cases import attack
from pool_servers import TOKEN, serving
from strangers import PATIENCE_S, load, nobody, port_of, until_ended

from lzero.errors import ReplError
from lzero.protocols import OnCall, Repl, ToolSpec
from lzero.repl.remote import door, wire
from lzero.repl.remote.pool import RemotePool
from lzero.types import Json

pytestmark = pytest.mark.integration
STRANGER = "127.0.0.2"
"""Another address of this machine."""
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


def connections(port: int) -> int:
    """Return the connections that the server has accepted and still holds."""
    return sum(each.laddr.port == port and bool(each.raddr) for each in psutil.Process().net_connections("tcp"))


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


@attack(98)
@pytest.mark.parametrize("more", [b"x", HEAD + b"\r\n", b"\x82\xfe\xff\xff" * 9])
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
async def test_what_follows_a_request_without_the_token_is_not_read(
    more: bytes, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    said = HEAD + UPGRADE + b"\r\n" + more
    async with serving(NoRepls()) as server, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server.url))
        for start in range(0, len(said), size):
            writer.write(said[start : start + size])
            if size < len(said):
                await writer.drain()
        await until_ended(reader)
        writer.transport.abort()
        assert await load(server.url)
    assert not [record for record in caplog.records if record.exc_info]


# A server that means harm
