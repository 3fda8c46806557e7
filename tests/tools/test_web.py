"""The web client, against real servers on loopback: where it goes, where it does not, and what it does with bad answers."""

import asyncio
import email.utils
import gzip
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from web_servers import Request, WebServer, json_response, pages, response, serving

from lzero.errors import ConfigError, ToolError
from lzero.tools import web
from lzero.tools.keys import Secret
from lzero.tools.retry import ServiceError, Unanswered
from lzero.tools.service import Service
from lzero.tools.web import Resolve, WebClient, is_public

pytestmark = pytest.mark.integration
PUBLIC = "93.184.216.34"


def resolver(*addresses: str) -> Resolve:
    """Return a resolver that gives these addresses to every host."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


async def refused(client: WebClient, url: str) -> str:
    with pytest.raises(ToolError) as raised:
        await client.fetch(url)
    assert raised.value.fault == "agent", raised.value
    return str(raised.value)


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


# Where it does not go


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",  # noqa: S104
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.127.255.254",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:93.184.216.34",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "2606:2800:220:1::1%eth0",
        "fec0::1",
        "ff02::1",
        "5f00::1",
        "no address",
    ],
)
async def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(address)
    assert "not on the public internet" in await refused(WebClient(resolve=resolver(address)), "http://example.org/")
    both = WebClient(resolve=resolver(PUBLIC, address))
    assert "not on the public internet" in await refused(both, "http://example.org/")


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:2800:220:1:248:1893:25c8:1946", "2a00:1450:4001::1"])
def test_a_public_address_is_one(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://2130706433/",
        "http://127。0。0。1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
async def test_however_this_machine_is_spelled_it_is_refused(url: str) -> None:
    told = await refused(WebClient(), url)
    assert re.search("not on the public internet|no web address|no host", told)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://example.org/", "begins with https://"),
        ("file:///etc/passwd", "begins with https://"),
        ("example.org", "begins with https://"),
        ("", "begins with https://"),
        ("javascript:alert(1)", "begins with https://"),
        ("http://user:pass@example.org/", "user name or a password"),
        ("http://example.org@127.0.0.1/", "user name or a password"),
        ("http://example.org\\@127.0.0.1/", "backslash"),
        ("http://example.org/\x00", "control character"),
        ("http://example.org/a\r\nHost: x", "control character"),
        ("http://exam ple.org/", "a space"),
        ("http://example.org/\u202egnp", "control character"),
        ("http://①.example.org/", "no web address"),
        ("http://exam%20ple.org/", "no host"),
        ("http://a..b/", "no host"),
        ("http:///path", "no web address|no host"),
        ("http://[::1%25eth0]/", "no host|no web address"),
        ("http://[::1/", "no web address"),
        ("http://example.org:8080/", "port 8080; only 80 and 443"),
        ("http://example.org:22/", "port 22; only 80 and 443"),
        ("http://example.org:99999/", "port 99999|no web address"),
        ("http://example.org:abc/", "no web address"),
        ("http://example.org/" + "x" * 5_000, "at most 4096"),
        ("http://" + "a" * 80 + ".org/", "no host"),
    ],
)
async def test_what_is_no_web_address_is_refused_before_anything_is_looked_up(url: str, told: str) -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        raise AssertionError(host)

    with pytest.raises(ToolError, match=told) as raised:
        await WebClient(resolve=never).fetch(url)
    assert raised.value.fault == "agent"
    assert len(str(raised.value)) < 400


PIECES = (
    "http://",
    "a",
    ".",
    "/",
    "@",
    ":",
    "[",
    "]",
    "[::1%25x]",
    "%",
    "xn--",
    "\u3002",
    "\u0640",
    "\u05d0",
    "\ud800",
    "<",
    "?",
)


@given(
    st.text(max_size=40)
    | st.from_regex(r"https?://[ -~]{0,40}", fullmatch=True)
    | st.lists(st.sampled_from(PIECES), max_size=8).map(lambda pieces: "http://" + "".join(pieces))
)
@example("http://[fe80::1%25]/")
@example("http://[::1%25x]\u0640<xn--a\u05d0[v1.x]")
@example("\ud800")
@example("http://\u3002/")
def test_any_text_is_checked_without_a_crash(url: str) -> None:
    with suppress(ToolError):
        web._joined(httpx2.URL("http://example.org/"), url)  # a redirect
    try:
        target = WebClient().check(url)
    except ToolError:
        return
    assert target.scheme in ("http", "https")
    assert not target.userinfo


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/admin",
        "http://169.254.169.254/latest/meta-data/",
        "//localhost/",
        "file:///etc/passwd",
        "http://user@example.org/",
        "http://example.org:22/",
        "http://[::1",
    ],
)
async def test_a_redirect_is_checked_like_any_address(location: str) -> None:
    async with serving(pages({"/": response(status=302, location=location)})) as server:
        await refused(WebClient(allow_hosts=[server.host]), f"{server.url}/")
        assert len(server.requests) == 1


async def test_redirects_without_end_are_given_up() -> None:
    async with serving(pages({"/": response(status=301, location="/")})) as server:
        assert "more than 5 times" in await refused(WebClient(allow_hosts=[server.host]), f"{server.url}/")
        assert len(server.requests) == 6


async def test_an_allowed_host_is_allowed_on_its_port_only() -> None:
    async with serving(pages({"/": response(b"ok")})) as server, serving(pages({})) as other:
        client = WebClient(allow_hosts=[server.host])
        assert (await client.fetch(server.url)).body == b"ok"
        assert "only 80 and 443" in await refused(client, other.url)


@pytest.mark.parametrize("entry", ["", "http://a", "a/b", "user@a", "a:b", "a:", "*", "a b", "[::1", "a:123456"])
def test_an_entry_of_the_allow_list_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"tools\.allow_hosts"):
        WebClient(allow_hosts=[entry])


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


# Services


def service_at(server: WebServer, **key: Any) -> Service:
    return Service(name="Test", url=f"{server.url}/", client=WebClient(allow_hosts=[server.host]), **key)


@pytest.mark.parametrize(
    ("status", "headers", "told", "permanent", "retry_after_s"),
    [
        (401, {}, "Test refuses the key in TEST_KEY", True, 0),
        (403, {}, "Test refuses the key in TEST_KEY", True, 0),
        (402, {}, "Test wants to be paid first", True, 0),
        (429, {"retry_after": "7"}, "Test is asked too often", False, 7),
        (429, {"retry_after": "soon"}, "Test is asked too often", False, 0),
        (503, {"retry_after": "3"}, "Test is asked too often", False, 3),
        (500, {}, "Test failed", False, 0),
        (400, {}, "Test failed", True, 0),
        (302, {"location": "/elsewhere"}, "Test failed", True, 0),
    ],
)
async def test_a_services_failures_are_told_apart_and_no_key_shows(
    status: int, headers: dict[str, str], told: str, permanent: bool, retry_after_s: float
) -> None:
    said = json_response({"message": "no: k-123\x1b[31m"}, status=status, **headers)
    async with serving(pages({"/": said})) as server:
        service = service_at(server, key=Secret("k-123"), key_variable="TEST_KEY")
        with pytest.raises(ServiceError, match=told) as raised:
            await service.ask(dict, json={"q": 1})
        assert (raised.value.fault, raised.value.permanent) == ("tool", permanent)
        assert raised.value.retry_after_s == retry_after_s
        assert f"HTTP {status}" in str(raised.value)
        assert "k-123" not in str(raised.value)
        assert "\x1b" not in str(raised.value)
        (request,) = server.requests
        assert (request.method, request.json) == ("POST", {"q": 1})
        assert request.headers["authorization"] == "Bearer k-123"


async def test_a_service_may_ask_for_peace_until_a_date() -> None:
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    async with serving(pages({"/": response(status=429, retry_after=later)})) as server:
        with pytest.raises(ServiceError) as raised:
            await service_at(server).ask(dict)
        assert 90 < raised.value.retry_after_s <= 100


async def test_a_service_at_an_impossible_address_is_no_fault_of_the_agent() -> None:
    with pytest.raises(ServiceError, match=r"Test: .* port 81") as raised:
        await Service(name="Test", url="http://example.org:81/", client=WebClient()).ask(dict)
    assert raised.value.permanent
