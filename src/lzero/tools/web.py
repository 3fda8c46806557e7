"""The tools' only access to the network: every request has a deadline and a size limit, and reaches only public addresses.

An agent's URLs are hostile: they may name this machine, its network, a cloud's metadata service, or a host whose address changes between a
check and its use. So a host is resolved once, all of its addresses are checked, and the connection goes to one of these, under the host's
own name (`Host`, TLS). A redirect is checked like a new URL. Proxies, cookies and netrc of the environment are ignored.

    page = await WebClient().fetch("https://example.org/")

A connection lives for one request: a client needs no closing, and works in any event loop.
"""

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import httpcore2
import httpx2

from lzero import __version__
from lzero.blocking import in_thread
from lzero.errors import ConfigError, ToolError
from lzero.tools.retry import ServiceError, retry_after
from lzero.tools.web_transport import Paced, PoolTransport, Progress
from lzero.types import Json

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → its addresses, as text. Raises socket.gaierror."""
USER_AGENT = f"lzero/{__version__} (research agent)"
TIMEOUT_S = 15.0
MAX_BYTES = 5_000_000
"""The most bytes of an answer, unpacked; the rest is dropped."""
MAX_REDIRECTS = 5
MAX_URL_CHARS = 4_096
PORTS = (80, 443)
_MAX_ADDRESSES = 4
"""The most addresses of a host that are tried in turn."""
_MAX_CODINGS = 2
"""The most layers of compression of a body, each up to a thousandfold. A layer below the last may unpack to nothing, without a pause."""
_SAID_CHARS = 200
_HOST = re.compile(r"(?=.{1,254}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?")
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
"""Addresses outside of it are not routed, or wrap an IPv4 address (mapped, compatible, NAT64)."""
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "192.0.0.0/24",
        "192.88.99.0/24",  # the anycast relay of 6to4
        "198.18.0.0/15",
        "240.0.0.0/4",
        "2001::/23",  # Teredo and other protocols' own
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)


@dataclass(frozen=True, kw_only=True)
class WebResponse:
    """A server's response. `url`: the address after redirects. `cut`: the body was longer than this beginning."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool

    @property
    def media_type(self) -> str:
        """The media type, as in "text/html"; "" if none is given."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def retry_after_s(self) -> float:
        """Seconds that the server asks to wait; 0 if it does not ask."""
        return retry_after(self.headers) or 0.0


class WebClient:
    """Fetches public URLs, and those of hosts in `allow_hosts` ("127.0.0.1:8000", "wiki.intranet"), wherever these are.

    `timeout_s` covers a request from the look-up of its host to its last byte, redirects included. A `proxy` (only a configured one)
    resolves hosts itself, so it must keep private ones unreachable under a public name.
    """

    def __init__(
        self,
        *,
        timeout_s: float = TIMEOUT_S,
        max_bytes: int = MAX_BYTES,
        allow_hosts: Iterable[str] = (),
        proxy: str = "",
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Raise ConfigError for an invalid entry of `allow_hosts`, or an invalid proxy."""
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._allowed = frozenset(place for entry in allow_hosts for place in _places(entry))
        self._proxy = _proxy(proxy) if proxy else None
        self._resolve = resolve or _resolve
        self._tls = tls

    async def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        json: Json = None,
        max_redirects: int = MAX_REDIRECTS,
    ) -> WebResponse:
        """Return the server's response, with any status. With `max_redirects=0` a redirect is returned like other responses.

        Raises ToolError, the agent's fault, for a URL that is invalid, forbidden, or has an unknown host; ServiceError for a server that
        cannot be reached or does not speak HTTP; Unanswered for one that has the whole request and is too slow.
        """
        place, progress = url, Progress()
        try:
            async with asyncio.timeout(self._timeout_s):
                for _ in range(max_redirects + 1):
                    target = self.check(place)
                    answer = await self._exchange(target, method, headers or {}, json, progress)
                    location = answer.headers.get("location")
                    if answer.status not in _REDIRECTS or not location or max_redirects == 0:
                        return answer
                    place = _joined(target, location)
                    method, json = "GET", None
        except TimeoutError:
            raise progress.late(f"{_shown(url)} did not answer within {self._timeout_s:g} s") from None
        raise ToolError(f"{_shown(url)} redirects more than {max_redirects} times", fault="agent")

    def check(self, url: str) -> httpx2.URL:
        """Return the parsed URL if it may be requested, as far as that is known without a look-up of its host. Raises ToolError, the
        agent's fault."""
        url = url.strip()
        if len(url) > MAX_URL_CHARS:
            raise ToolError(f"{_shown(url)} has {len(url)} characters; at most {MAX_URL_CHARS} fit", fault="agent")
        if not re.match("https?://", url, re.IGNORECASE):
            raise ToolError(f"{_shown(url)} is no web address: it begins with https:// or http://", fault="agent")
        if "\\" in url or any(letter.isspace() or not letter.isprintable() for letter in url):
            raise ToolError(f"{_shown(url)} holds a space, a backslash or a control character", fault="agent")
        try:
            target = httpx2.URL(url)
            host = target.raw_host.decode("ascii", "replace")
        except (httpx2.InvalidURL, ValueError) as error:  # ValueError: a host in brackets beyond ASCII
            raise ToolError(f"{_shown(url)} is no web address: {error!s:.{_SAID_CHARS}}", fault="agent") from None
        if target.userinfo:
            raise ToolError(f"{_shown(url)} holds a user name or a password; none are sent", fault="agent")
        if not _HOST.fullmatch(host) and not _is_ipv6(host):
            raise ToolError(f"{_shown(url)} names no host that there could be", fault="agent")
        port = _port(target)
        if port not in PORTS and not self._is_allowed(host, port):
            raise ToolError(f"{_shown(url)} has port {port}; only 80 and 443 are asked", fault="agent")
        return target

    async def check_for_another(self, target: httpx2.URL) -> None:
        """Check the addresses of a URL before a proxy or a reader fetches it: those that can be looked up here must be public.

        A host that only the proxy or reader knows passes; they must block it themselves. Raises ToolError, the agent's fault.
        """
        host = target.raw_host.decode("ascii")
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._resolve(host, _port(target))
        except (OSError, UnicodeError):
            return
        self._check_public(host, _port(target), found)

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """Return the addresses for a connection to `host`.

        Raises ToolError, the agent's fault, for a host that does not exist, or has an address that is neither public nor allowed;
        ServiceError if it cannot be looked up now.
        """
        found: Sequence[str] = ()
        try:
            found = await self._resolve(host, port)
        except UnicodeError:
            pass
        except socket.gaierror as error:
            if error.errno not in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
                raise ServiceError(f"cannot look up the host {host}: {error.strerror}") from None
        if not found:
            raise ToolError(f"there is no host {host}", fault="agent")
        self._check_public(host, port, found)
        return tuple(dict.fromkeys(found))

    def _check_public(self, host: str, port: int, found: Sequence[str]) -> None:
        if not self._is_allowed(host, port) and not all(is_public(address) for address in found):
            raise ToolError(f"{host} is not on the public internet; only public pages are read", fault="agent")

    def _is_allowed(self, host: str, port: int) -> bool:
        return (host.rstrip("."), port) in self._allowed

    async def _exchange(
        self, target: httpx2.URL, method: str, headers: Mapping[str, str], json: Json, progress: Progress
    ) -> WebResponse:
        """Make one request, and return the response with a bounded body."""
        progress.is_sent = False
        if self._proxy:
            await self.check_for_another(target)
        pool = httpcore2.AsyncConnectionPool(
            ssl_context=self._tls or _system_tls(),
            proxy=self._proxy,
            network_backend=Paced(httpcore2.AnyIOBackend() if self._proxy else _Checked(self)),
        )
        own = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
        try:
            async with (
                httpx2.AsyncClient(transport=PoolTransport(pool), trust_env=False, timeout=self._timeout_s) as client,
                client.stream(
                    method, target, headers={**own, **headers}, json=json, extensions={"trace": progress.trace}
                ) as response,
            ):
                content, cut = await self._read(response)
        except (httpcore2.NetworkError, httpcore2.ProxyError) as error:
            raise ServiceError(f"cannot reach {target.host}: {_reason(error)}") from None
        except httpcore2.TimeoutException:
            raise progress.late(f"{target.host} did not answer in time") from None
        except (httpcore2.ProtocolError, httpx2.DecodingError) as error:
            raise ServiceError(f"{target.host} sent an answer that is broken: {_reason(error)}") from None
        return WebResponse(
            url=str(target), status=response.status_code, headers=response.headers, body=content, cut=cut
        )

    async def _read(self, response: httpx2.Response) -> tuple[bytes, bool]:
        """Return the body's first `max_bytes`, and whether it was cut; compressed data is unpacked no further."""
        codings = response.headers.get("content-encoding", "").split(",")
        if len(codings) > _MAX_CODINGS:
            raise ServiceError(f"{response.url.host} packed its answer {len(codings)} times over", permanent=True)
        content = bytearray()
        async with aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                content += chunk
                if len(content) > self._max_bytes:
                    return bytes(content[: self._max_bytes]), True
        return bytes(content), False


class _Checked(httpcore2.AsyncNetworkBackend):
    """Connects only to addresses that were checked."""

    def __init__(self, client: WebClient) -> None:
        self._client = client
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = (await self._client.addresses(host, port))[:_MAX_ADDRESSES]
        each_s = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return await self._network.connect_tcp(address, port, timeout=each_s)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._network.connect_tcp(addresses[-1], port, timeout=each_s)


def is_public(address: str) -> bool:
    """Return whether an address is one host of the public internet: not special, and not another address in disguise."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 6 and (parsed not in _GLOBAL_IPV6 or parsed.scope_id is not None):
        return False
    special = any(parsed.version == network.version and parsed in network for network in _NOT_PUBLIC)
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved and not special


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await in_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@functools.cache
def _system_tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


def _joined(target: httpx2.URL, location: str) -> str:
    try:
        return str(target.join(location))
    except (httpx2.InvalidURL, ValueError) as error:
        raise ToolError(
            f"{target.host} redirects to {_shown(location)}, no web address: {error!s:.{_SAID_CHARS}}", fault="agent"
        ) from None


def _places(entry: str) -> Iterable[tuple[str, int]]:
    """Return what an entry of the allow-list allows: "host:port", or "host" with the usual ports."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", entry.strip().lower())
    host = found[1].strip("[]").rstrip(".") if found else ""
    if found is None or not (_HOST.fullmatch(host) or _is_ipv6(host)):
        raise ConfigError(f'tools.allow_hosts: {entry!r} is not a host: write "host:port" or "host"')
    return [(host, port) for port in ((int(found[2]),) if found[2] else PORTS)]


def _proxy(url: str) -> httpcore2.Proxy:
    if not re.fullmatch(r"https?://[^/@\s]+/?", url):
        raise ConfigError(f'tools.proxy: {url!r} is not a proxy: write "http://host:port"')
    return httpcore2.Proxy(url)


def _port(url: httpx2.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:_SAID_CHARS]


def _shown(url: str) -> str:
    return repr(url if len(url) <= _SAID_CHARS else f"{url[:_SAID_CHARS]}…")
