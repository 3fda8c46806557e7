"""The tools' access to the network refuses what is no public page, however it is spelled."""

import re
from collections.abc import Sequence
from contextlib import suppress

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from web_clients import PUBLIC, refused, resolver
from web_servers import pages, response, serving

from lzero.errors import ConfigError, ToolError
from lzero.tools import web
from lzero.tools.web import WebClient, is_public

pytestmark = pytest.mark.integration


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
