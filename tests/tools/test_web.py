"""The web client, against real servers on loopback: where it goes, where it does not, and what it does with bad answers."""

import asyncio
import gzip
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from web_clients import PUBLIC, refused, resolver
from web_servers import Request, pages, response, serving

from lzero.errors import ConfigError
from lzero.tools.retry import ServiceError, Unanswered
from lzero.tools.web import Resolve, WebClient

pytestmark = pytest.mark.integration


async def failed(client: WebClient, url: str) -> str:
    with pytest.raises(ServiceError) as raised:
        await client.fetch(url)
    return str(raised.value)


# Where it goes


async def test_a_page_comes_with_its_status_type_and_body() -> None:
    page = response(b"<p>hello", content_type="text/html; charset=utf-8")
    async with serving(pages({"/a%20b?q=1": page})) as server:
        client = WebClient(allow_hosts=[server.host])
        answer = await client.fetch(f" {server.url}/a%20b?q=1\n")
        assert (answer.status, answer.media_type, answer.body, answer.cut) == (200, "text/html", b"<p>hello", False)
        assert answer.url == f"{server.url}/a%20b?q=1"
        missing = await client.fetch(f"{server.url}/none")
        assert (missing.status, missing.body) == (404, b"no such page")
        sent = server.requests[0].headers
        assert sent["host"] == server.host
        assert sent["user-agent"].startswith("lzero/")


async def test_the_connection_goes_to_the_address_that_was_checked_under_the_hosts_own_name() -> None:
    looked_up = []

    async def once(host: str, port: int) -> Sequence[str]:
        looked_up.append(host)
        assert len(looked_up) == 1, "a second look-up could give another answer"
        return ["127.0.0.1"]

    async with serving(pages({"/": response(b"ok")})) as server:
        port = server.host.partition(":")[2]
        answer = await WebClient(allow_hosts=[f"wiki.intranet:{port}"], resolve=once).fetch(
            f"http://wiki.intranet:{port}/"
        )
        assert answer.body == b"ok"
        assert server.requests[0].headers["host"] == f"wiki.intranet:{port}"


async def test_tls_is_for_the_hosts_own_name_and_is_checked(tmp_path: Path) -> None:
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=wiki.intranet"]
    command += ["-addext", "subjectAltName=DNS:wiki.intranet", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with serving(pages({"/": response(b"ok")}), tls=tls) as server:
        port = server.host.partition(":")[2]
        hosts = [f"wiki.intranet:{port}", f"other.intranet:{port}"]
        trusting = ssl.create_default_context(cafile=str(certificate))
        client = WebClient(allow_hosts=hosts, resolve=resolver("127.0.0.1"), tls=trusting)
        assert (await client.fetch(f"https://wiki.intranet:{port}/")).body == b"ok"
        assert server.server_names == ["wiki.intranet"]
        assert "certificate" in await failed(client, f"https://other.intranet:{port}/")
        untrusting = WebClient(allow_hosts=hosts, resolve=resolver("127.0.0.1"))
        assert "certificate" in await failed(untrusting, f"https://wiki.intranet:{port}/")


async def test_a_second_address_is_tried_where_the_first_does_not_answer() -> None:
    async with serving(pages({"/": response(b"ok")})) as server:
        port = server.host.partition(":")[2]
        client = WebClient(allow_hosts=[f"two.intranet:{port}"], resolve=resolver("127.0.0.2", "127.0.0.1"))
        assert (await client.fetch(f"http://two.intranet:{port}/")).body == b"ok"


async def test_redirects_are_followed_and_the_last_address_is_told() -> None:
    moved = {
        "/a": response(status=302, location="/b?x=ü"),
        "/b?x=%C3%BC": response(status=307, location="c"),
        "/c": response(b"here"),
    }
    async with serving(pages(moved)) as server:
        answer = await WebClient(allow_hosts=[server.host]).fetch(f"{server.url}/a")
        assert (answer.body, answer.url) == (b"here", f"{server.url}/c")


async def test_nothing_of_the_environment_has_a_say(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(pages({"/": response(b"ok", set_cookie="a=b")})) as server:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, "http://127.0.0.1:9")
        client = WebClient(allow_hosts=[server.host])
        for _ in range(2):
            assert (await client.fetch(server.url)).body == b"ok"
        assert "cookie" not in server.requests[1].headers


async def test_a_configured_proxy_is_used_and_private_hosts_stay_closed() -> None:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(request.target.encode()))

    async with serving(answer) as server:
        client = WebClient(proxy=server.url, resolve=resolver(PUBLIC))
        assert (await client.fetch("http://example.org/x")).body == b"http://example.org/x"
        assert "not on the public internet" in await refused(
            WebClient(proxy=server.url, resolve=resolver("10.0.0.1")), "http://example.org/"
        )
        assert len(server.requests) == 1
    with pytest.raises(ConfigError, match=r"tools\.proxy"):
        WebClient(proxy="socks5://127.0.0.1:1")


# What goes wrong


async def test_a_host_that_does_not_exist_is_the_agents_and_a_look_up_that_fails_is_not() -> None:
    def failing(code: int) -> Resolve:
        async def resolve(host: str, port: int) -> Sequence[str]:
            raise socket.gaierror(code, "the reason")

        return resolve

    assert "no host nowhere.example" in await refused(
        WebClient(resolve=failing(socket.EAI_NONAME)), "http://nowhere.example/"
    )
    assert "cannot look up the host nowhere.example: the reason" in await failed(
        WebClient(resolve=failing(socket.EAI_AGAIN)), "http://nowhere.example/"
    )


async def test_a_server_that_is_slow_anywhere_is_left_at_the_deadline() -> None:
    async def hang(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.target == "/head":
            writer.write(b"HTTP/1.1 200 OK\r\n")
        if request.target == "/body":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
        await writer.drain()
        await asyncio.sleep(60.0)

    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60.0)
        return ()

    async with serving(hang) as server:
        client = WebClient(allow_hosts=[server.host], timeout_s=0.2)
        for target in ("/", "/head", "/body"):
            assert "did not answer" in await failed(client, server.url + target)
    assert "did not answer" in await failed(WebClient(resolve=never, timeout_s=0.2), "http://example.org/")


async def test_a_server_that_has_the_whole_request_is_told_from_one_that_cannot_be_reached() -> None:
    async def hang(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.target == "/moved":
            writer.write(response(status=302, location=f"http://{silent.host}/"))
        elif request.method != "CONNECT":
            await asyncio.sleep(60.0)

    async def never(host: str, port: int) -> Sequence[str]:
        if host != "127.0.0.1":
            await asyncio.Event().wait()
        return [host]

    async with serving(hang) as server, serving(hang) as silent:
        client = WebClient(allow_hosts=[server.host, silent.host], timeout_s=2.0, resolve=never)
        for target in ("/", "/moved"):
            with pytest.raises(Unanswered):
                await client.fetch(server.url + target, method="POST", json={"a": 1})
        elsewhere = response(status=302, location="http://example.org/")
        async with serving(pages({"/": elsewhere})) as moved:
            client = WebClient(allow_hosts=[moved.host], timeout_s=2.0, resolve=never)
            with pytest.raises(ServiceError) as raised:
                await client.fetch(moved.url)
            assert not isinstance(raised.value, Unanswered)


async def test_a_proxy_that_makes_no_connection_has_no_request() -> None:
    async def hang(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60.0)

    async with serving(hang) as proxy:
        with pytest.raises(ServiceError) as raised:
            await WebClient(proxy=proxy.url, timeout_s=2.0, resolve=resolver(PUBLIC)).fetch("https://example.org/")
        assert not isinstance(raised.value, Unanswered)
        assert [request.method for request in proxy.requests] == ["CONNECT"]


async def test_what_drips_is_left_at_the_deadline_too() -> None:
    async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(drip) as server:
        start = time.monotonic()
        assert "did not answer within 0.3 s" in await failed(
            WebClient(allow_hosts=[server.host], timeout_s=0.3), server.url
        )
        assert time.monotonic() - start < 5.0


async def test_what_is_too_much_is_cut_at_the_limit() -> None:
    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with serving(endless) as server:
        answer = await WebClient(allow_hosts=[server.host], max_bytes=100_000).fetch(server.url)
        assert (len(answer.body), answer.cut) == (100_000, True)


async def test_what_is_packed_is_unpacked_no_further_than_the_limit() -> None:
    once = gzip.compress(bytes(200_000_000), compresslevel=1)
    bombs = {
        "/": response(once, content_encoding="gzip"),
        "/twice": response(gzip.compress(once), content_encoding="gzip, gzip"),
        "/small": response(gzip.compress(b"hello"), content_encoding="gzip"),
        "/broken": response(b"no gzip", content_encoding="gzip"),
    }
    async with serving(pages(bombs)) as server:
        client = WebClient(allow_hosts=[server.host], max_bytes=100_000)
        for target in ("/", "/twice"):
            answer = await client.fetch(server.url + target)
            assert (len(answer.body), answer.cut) == (100_000, True)
        assert (await client.fetch(f"{server.url}/small")).body == b"hello"
        assert "broken" in await failed(client, f"{server.url}/broken")


async def test_what_is_packed_over_and_over_is_not_unpacked() -> None:
    """A few kilobytes of it would keep the process for minutes, without a byte to show."""
    header, nothing = gzip.compress(b"")[:10], b"\x00\x00\x00\xff\xff"
    inner = gzip.compress(header + nothing * 1_000_000, compresslevel=1)
    bomb = response(gzip.compress(inner), content_encoding="gzip, gzip, gzip")
    async with serving(pages({"/": bomb})) as server:
        assert "packed its answer 3 times" in await failed(WebClient(allow_hosts=[server.host]), server.url)


async def test_headers_without_number_are_not_looked_at() -> None:
    """Each would be compared, joined and searched for cookies, in the event loop."""
    many = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"Set-Cookie: a=b\r\n" * 2_000 + b"\r\n"
    async with serving(pages({"/": many})) as server:
        assert "sent 2,001 headers" in await failed(WebClient(allow_hosts=[server.host]), server.url)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nends here",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_a_broken_answer_is_the_servers_fault(said: bytes) -> None:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    async with serving(answer) as server:
        told = await failed(WebClient(allow_hosts=[server.host], timeout_s=5.0), server.url)
        assert "broken" in told or "cannot reach" in told


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with serving(pages({})) as server:
        pass
    assert "cannot reach 127.0.0.1" in await failed(WebClient(allow_hosts=[server.host]), server.url)
