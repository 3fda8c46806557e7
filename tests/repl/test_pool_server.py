"""A pool server admits clients with its token, and closes the connection of one that misbehaves."""

import asyncio
import logging
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
import pytest
from fault_traces import until
from pool_servers import TOKEN, ServerProcess, raw, serving
from repl_sessions import no_tools, value
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lzero.agent.nb_agent import NBAgent
from lzero.config import load_config
from lzero.engine.scripted.engine import ScriptedChat
from lzero.errors import ConfigError, ReplError
from lzero.repl import LocalPool
from lzero.repl.remote import wire as remote_wire
from lzero.repl.remote.pool import RemotePool
from lzero.rollout.compose import build

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


async def ending(connection: ClientConnection) -> str:
    """Return why the server closed the connection."""
    async with asyncio.timeout(20.0):
        while True:
            try:
                await connection.recv()
            except ConnectionClosed as closed:
                return str(closed)


# Who may come in


def http_status(url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


async def test_nobody_comes_in_without_the_token(pool: LocalPool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(pool) as server:
        for token in ("another-token-than-that", "", TOKEN[:-1], "é"):
            with pytest.raises(ReplError, match=rf"{server.url}: .*token.*LZERO_POOL_TOKEN") as refused:
                await RemotePool((server.url,), token=token).start()
            assert TOKEN not in str(refused.value)
        with pytest.raises(InvalidStatus, match="401"):
            async with connect(server.url + remote_wire.PATH, proxy=None):
                pass
        load = server.url.replace("ws:", "http:") + "/load"
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert (await asyncio.to_thread(http_status, load, {}))[0] == 401
        assert (await asyncio.to_thread(http_status, load + "/none", {}))[0] == 401
        status, body = await asyncio.to_thread(http_status, load, bearer)
        assert (status, msgspec.json.decode(body)["repls"]) == (200, 0)
        async with RemotePool((server.url,), token=TOKEN) as servers:
            repl = await servers.open((), no_tools, seed=0)
            environment = await value(
                repl, "import os, pathlib\nstr(os.environ), pathlib.Path('/proc/self/environ').read_text()"
            )
            assert TOKEN not in environment
            await repl.close()
    assert "is refused: its token is another one" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert TOKEN not in caplog.text


async def test_another_version_is_told_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    async with ServerProcess(before="import lzero.repl.remote.wire as w; w.VERSION = 99; ") as server:
        with pytest.raises(ReplError, match=r"version 99 .*version 2") as refused:
            await RemotePool((server.url,), token=TOKEN).start()
        assert "same lzero" in str(refused.value)
        server.process.terminate()
        assert "it speaks version 2 of the pool's protocol, not 99" in await server.errors()


async def test_a_server_that_ends_sessions_before_their_episodes_is_refused(pool: LocalPool) -> None:
    async with serving(pool, lifetime_s=900.0) as short, serving(pool) as unlimited:
        for urls in ((short.url,), (unlimited.url, short.url)):
            with pytest.raises(ReplError) as refused:
                await RemotePool(urls, token=TOKEN, session_s=960.5).start()
            assert str(refused.value).startswith(
                f"{short.url} ends a session after repl.lifetime_s = 900, and an episode may need it for 960.5 s: "
                "start that server with repl.lifetime_s=961"
            )
        for url, needed_s in ((short.url, 900.0), (short.url, 0.0), (unlimited.url, 1e9)):
            async with RemotePool((url,), token=TOKEN, session_s=needed_s) as servers:
                assert servers.stats()["servers"] == 1


async def test_a_run_refuses_a_server_whose_sessions_live_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LZERO_POOL_TOKEN", TOKEN)
    async with ServerProcess("repl.lifetime_s=900") as server:
        far = [f'repl.servers=["{server.url}"]']
        config = load_config(None, ["engine.kind=scripted", "engine.policy=expert", *far])
        with pytest.raises(ReplError, match=r"repl\.lifetime_s = 900, and an episode may need it for 960 s"):
            async with build(config):
                pass
        agent = NBAgent(ScriptedChat(lambda messages, seed: ""), config=load_config(None, far), work_s=901.0)
        with pytest.raises(ReplError, match=r"repl\.lifetime_s = 900, and an episode may need it for 901 s"):
            await agent.__aenter__()


async def test_what_is_no_pool_server_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", 0) as somebody:
        port = somebody.sockets[0].getsockname()[1]
        with pytest.raises(ReplError, match=r"no pool server answers there \(HTTP 302"):
            await RemotePool((f"ws://127.0.0.1:{port}",), token=TOKEN).start()
    with pytest.raises(ReplError, match=rf"no pool server is available: ws://127\.0\.0\.1:{port}: Connection refused"):
        await RemotePool((f"ws://127.0.0.1:{port}",), token=TOKEN).start()


async def test_tls_with_an_authority_of_ones_own(pool: LocalPool, tmp_path: Path) -> None:
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    arguments = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    arguments += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(arguments, check=True, capture_output=True, timeout=60)
    from lzero.config import ReplConfig
    from lzero.repl import open_pool

    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    async with serving(pool, certificate=certificate, key=key) as server:
        assert server.url.startswith("wss://")
        config = ReplConfig(servers=(server.url,), token_file=str(token), certificate_authority=str(certificate))
        servers = open_pool(config)
        async with servers:
            repl = await servers.open((), no_tools, seed=0)
            assert (await repl.run("1", deadline_s=20.0)).status == "ok"
            await repl.close()
        with pytest.raises(ReplError, match=r"certificate is not trusted.*repl\.certificate_authority"):
            await open_pool(config.model_copy(update={"certificate_authority": ""})).start()
        plain = server.url.replace("wss:", "ws:")
        with pytest.raises(ReplError, match="no pool server is available"):
            await RemotePool((plain,), token=TOKEN).start()
    with pytest.raises(ConfigError, match="cannot use the certificate"):
        await serving(pool, certificate=key, key=key).start()


async def test_other_machines_are_served_with_tls_or_on_demand_only(pool: LocalPool) -> None:
    with pytest.raises(ConfigError, match=r"unencrypted.*--insecure"):
        await serving(pool, host="0.0.0.0").start()  # noqa: S104
    async with serving(pool, host="0.0.0.0", insecure=True) as server:  # noqa: S104
        assert "0.0.0.0" not in server.url  # noqa: S104 - an address that a client can use


# A client that misbehaves


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00" * 100,
        b"\xc1",
        b"\x91" * 100_000,
        "text",
        msgspec.msgpack.encode({"type": "open", "id": 1, "tools": "none", "seed": 0}),
        msgspec.msgpack.encode({"type": "open", "id": 1, "tools": [], "seed": 0, "more": 1}),
        msgspec.msgpack.encode({"type": "run", "id": 1, "repl": 1, "code": "1", "deadline_s": float("nan")}),
        msgspec.msgpack.encode({"type": "welcome"}),
    ],
)
async def test_a_malformed_message_ends_its_client_only(pool: LocalPool, message: bytes | str) -> None:
    async with serving(pool) as server, RemotePool((server.url,), token=TOKEN) as servers:
        repl = await servers.open((), no_tools, seed=0)
        async with raw(server.url) as connection:
            await connection.recv()
            await connection.send(remote_wire.encode(remote_wire.Open(id=1, tools=(), seed=0)))
            await connection.recv()
            assert pool.stats()["open"] == 2
            await connection.send(message)
            assert "not a message of a client" in await ending(connection)
        await until(lambda: pool.stats()["open"] == 1)
        assert await value(repl, "1 + 1") == "2"
        await repl.close()


async def test_a_client_that_breaks_the_rules_ends_itself_only(pool: LocalPool) -> None:
    run = remote_wire.Run(id=2, repl=1, code="import time\ntime.sleep(1000)", deadline_s=100.0)
    opening = remote_wire.Open(id=1, tools=(), seed=0)
    for messages, why in (
        ((opening, opening), "second REPL"),
        ((opening, run), "two requests at once"),
    ):
        async with serving(pool) as server, raw(server.url) as connection:
            for message in messages:
                await connection.send(remote_wire.encode(message))
            assert why in await ending(connection)
            await until(lambda: pool.stats()["open"] == 0)


async def test_a_file_is_as_large_as_was_said(pool: LocalPool) -> None:
    async with serving(pool, file_bytes=100) as server, raw(server.url) as connection:

        async def said(message: remote_wire.FromClient) -> remote_wire.FromServer:
            await connection.send(remote_wire.encode(message))
            answer = await asyncio.wait_for(connection.recv(), 20.0)
            assert isinstance(answer, bytes)
            return remote_wire.decode_server(answer)

        await connection.recv()
        assert isinstance(await said(remote_wire.Open(id=1, tools=(), seed=0)), remote_wire.Opened)
        refused = await said(remote_wire.Put(id=2, repl=1, path="x", size=101))
        assert isinstance(refused, remote_wire.Failed)
        assert "101 bytes; 100 may be sent" in refused.message
        assert await said(remote_wire.Put(id=3, repl=1, path="x", size=10)) == remote_wire.More(id=3)
        refused = await said(remote_wire.Part(id=3, data=bytes(11), last=True))
        assert isinstance(refused, remote_wire.Failed)
        assert "not the next part of a file of 10 bytes" in refused.message
        done = await said(remote_wire.Run(id=4, repl=1, code="1", deadline_s=20.0))
        assert isinstance(done, remote_wire.Done)
        assert done.execution.status == "ok"
    await until(lambda: pool.stats()["open"] == 0)


async def test_a_message_without_end_is_refused(pool: LocalPool) -> None:
    async with serving(pool) as server:
        connection = await raw(server.url)
        with suppress(ConnectionClosed):  # it may hear of it while it sends
            await connection.send(bytes(remote_wire.MAX_MESSAGE + 1))
        assert "1009" in await ending(connection)
        await (
            connection.wait_closed()
        )  # not `close`: a transport of Python 3.11 that has lost unsent data fails to abort


async def test_a_client_that_takes_nothing_is_let_go_of(pool: LocalPool) -> None:
    """It floods the server with requests and reads no answer: the server's memory stays where it was."""
    async with serving(pool, lease_s=1.0) as server, RemotePool((server.url,), token=TOKEN) as servers:
        before = psutil.Process().memory_info().rss
        host, port = server.url.removeprefix("ws://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        headers = f"Host: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        headers += f"Sec-WebSocket-Key: {'A' * 22}==\r\nAuthorization: Bearer {TOKEN}\r\n"
        headers += f"{remote_wire.VERSION_HEADER}: {remote_wire.VERSION}\r\n"
        writer.write(f"GET {remote_wire.PATH} HTTP/1.1\r\n{headers}\r\n".encode())
        beat = remote_wire.encode(remote_wire.Beat())
        frames = (bytes([0x82, 0x80 | len(beat), 0, 0, 0, 0]) + beat) * 1000

        async def flood() -> None:
            while True:
                writer.write(frames)
                await writer.drain()

        with pytest.raises((ConnectionError, TimeoutError)):
            await asyncio.wait_for(flood(), 20.0)
        writer.transport.abort()
        assert psutil.Process().memory_info().rss < before + (64 << 20)
        repl = await servers.open((), no_tools, seed=0)
        assert await value(repl, "1 + 1") == "2"
        await repl.close()
