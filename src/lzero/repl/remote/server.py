"""Offer a pool of this machine over the network: `lzero pool serve`.

    async with PoolServer(pool, Serving(), token=token, file_bytes=16 << 20, lifetime_s=7200.0) as server:
        print(server.url)

There are two paths behind the bearer token. `GET /load` returns the load, and a WebSocket at `/repls` serves one client with all its REPLs
(`lzero.repl.remote.served`). The server listens on loopback by default. Elsewhere it requires TLS, or `--insecure`.

`lzero.repl.remote.door` bounds the number of connections without the token, and their time; this module bounds the bytes that they send.
"""

import asyncio
import errno
import hmac
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable

import msgspec
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from lzero.closing import Service
from lzero.errors import ConfigError
from lzero.protocols import ReplPool
from lzero.repl.remote import wire
from lzero.repl.remote.door import Door, Guest, Refusals
from lzero.repl.remote.link import QUIET, Bounded
from lzero.repl.remote.served import Client, Room
from lzero.serving import Serving
from lzero.text import one_line

logger = logging.getLogger(__name__)
_OTHER_VERSION = 426
"""HTTP's status code for a client that should use another version."""
_GOING_AWAY = 1001
"""WebSocket's code for a server that ends."""
REQUEST_BYTES = 16 << 10
"""Bytes that a connection may send before it has shown the token. An honest request has a few hundred."""
_REQUEST_END = b"\r\n\r\n"
_UNSENT_BYTES = 1 << 16
"""The most unsent bytes in the kernel for one client. The kernel's own bound is some megabytes. A client that reads nothing would take a
while to fill these with short answers, and would seem to read meanwhile.
"""
_GRACE_S = 20.0
"""Seconds for clients to disconnect when the server ends."""


class PoolServer(Service):
    """Serves `pool` at `url` in the running event loop. It neither starts nor closes the pool."""

    def __init__(
        self,
        pool: ReplPool,
        serving: Serving,
        *,
        token: str,
        file_bytes: int,
        lifetime_s: float | None,
    ) -> None:
        """`file_bytes`: the largest file that the pool's REPLs take. `lifetime_s`: seconds after which the pool ends a REPL; None: never.

        Raises ConfigError for a lease that is not positive, or too long.
        """
        lease_s = serving.lease_s
        if not 0.0 < lease_s <= wire.MAX_DEADLINE_S:
            raise ConfigError(f"--lease-s = {lease_s:g}: the maximum is {wire.MAX_DEADLINE_S:g} seconds")
        self._pool = pool
        self._room = Room(max_repls=serving.max_repls, lease_s=lease_s, file_bytes=file_bytes, lifetime_s=lifetime_s)
        self._expected = f"Bearer {token}".encode()
        self._refusals = Refusals()
        self._serving = serving
        self._port = serving.port
        self._door: Door | None = None
        self._served: dict[asyncio.Task[None], _Connection] = {}

    @property
    def url(self) -> str:
        """The address for `repl.servers`."""
        scheme = "ws" if self._serving.certificate is None else "wss"
        host = socket.gethostname() if self._serving.host in ("0.0.0.0", "::") else self._serving.host  # noqa: S104 - compared, not bound
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def bind(self) -> None:
        """Take the port, without serving yet. Raises ConfigError for a port in use, a certificate that cannot be read, …"""
        tls = self._tls()
        listener = await asyncio.to_thread(self._listen)
        self._port = listener.getsockname()[1]
        self._door = Door(
            listener, tls, lambda guest: _Connection(self, guest, self._refusals, self._begin), self._refusals
        )

    async def start(self) -> None:
        """Serve. Raises as `bind` does."""
        if self._door is None:
            await self.bind()
        assert self._door is not None
        self._door.open()

    async def ended(self) -> None:
        """Return when the server accepts no more connections. `close` then raises the error that ended it."""
        assert self._door is not None
        await self._door.ended()

    async def close(self) -> None:
        """Close every client's REPLs, and the port. Safe to call twice."""
        try:
            if self._door is not None:
                await self._door.close()
        finally:
            connections = list(self._served.values())
            await asyncio.gather(*(connection.hang_up(_GOING_AWAY) for connection in connections))
            if self._served:
                await asyncio.wait(self._served, timeout=_GRACE_S)

    def is_serving(self) -> bool:
        """Return whether a connection may become a client. A `ServerConnection` asks its server."""
        return True

    def _begin(self, connection: "_Connection") -> None:
        task = asyncio.create_task(self._serve(connection))
        self._served[task] = connection
        task.add_done_callback(self._served.pop)

    async def _serve(self, connection: "_Connection") -> None:
        """Answer the request of a connection. Serve a client until it ends."""
        name = connection.guest.name
        try:
            await connection.handshake(self._screen, _name_version, None)
            if connection.state is State.OPEN:
                await Client(connection, self._pool, self._room, name).serve()
        except (
            ConnectionClosed,
            InvalidHandshake,
        ):  # an older websockets raises the latter for a request without sense
            pass
        except Exception:
            logger.exception("serving %s failed", name)
        finally:
            await connection.hang_up()

    def _screen(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the answer to a request; None for one of a client, with the token, the path and the version of a client."""
        assert isinstance(connection, _Connection)
        guest = connection.guest
        given = ", ".join(request.headers.get_all("Authorization"))
        # An older websockets decodes bytes beyond ASCII to surrogates.
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), self._expected):
            self._refusals.note(guest.name, f"its token is {'another one' if given else 'missing'}")
            text = "the token is not this server's" if given else "a token is needed: Authorization: Bearer …"
            response = connection.respond(401, text)
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if request.path == "/load":
            load = {**self._pool.stats(), "repls": self._room.repls, "max_repls": self._room.max_repls}
            response = connection.respond(200, msgspec.json.encode(load).decode())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        if request.path != wire.PATH:
            return connection.respond(404, "a pool server has /load and /repls")
        theirs = one_line(", ".join(request.headers.get_all(wire.VERSION_HEADER))) or "none"
        if theirs != str(wire.VERSION):
            text = f"the server speaks version {wire.VERSION} of the pool's protocol, this client version {theirs}"
            logger.warning(
                "%s is refused: it speaks version %s of the pool's protocol, not %d", guest.name, theirs, wire.VERSION
            )
            return connection.respond(_OTHER_VERSION, text)
        guest.admit()
        return None

    def _tls(self) -> ssl.SSLContext | None:
        certificate, key = self._serving.certificate, self._serving.key
        if certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use the certificate {certificate} with its key {key}: {error}") from None
        return context

    def _listen(self) -> socket.socket:
        place = f"port {self._port} of {self._serving.host}"
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._serving.host, self._port, type=socket.SOCK_STREAM
            )[0]
            protected = self._serving.certificate is not None or self._serving.insecure
            if not protected and not ipaddress.ip_address(address[0]).is_loopback:
                raise ConfigError(
                    f"{self._serving.host} is reachable from other machines, and tokens and cells would travel unencrypted: give "
                    "--certificate and --key, or --insecure on a trusted network"
                )
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            raise ConfigError(f"cannot serve at {place}: {error.strerror or error}") from None
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)  # connections inherit it
            listener.bind(address)
        except OSError as error:
            listener.close()
            hint = "; name another with --port" if error.errno == errno.EADDRINUSE else ""
            raise ConfigError(f"cannot serve at {place}: {error.strerror or error}{hint}") from None
        return listener


class _Connection(Bounded, ServerConnection):
    """A connection that sends one request, of at most `REQUEST_BYTES`, before it has shown the token."""

    def __init__(
        self, server: PoolServer, guest: Guest, refusals: Refusals, begin: Callable[["_Connection"], None]
    ) -> None:
        """`begin`: called when the connection, and its TLS, are there."""
        protocol = ServerProtocol(max_size=wire.MAX_MESSAGE, logger=QUIET)
        super().__init__(protocol, server, ping_interval=None)  # type: ignore[arg-type] # it asks `is_serving` only
        self.guest = guest
        self._refusals = refusals
        self._begin = begin
        self._read = 0
        self._end = b""
        """The last bytes that were read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Connection.connection_made(self, transport)  # ServerConnection's would start a task of websockets' own server
        self._begin(self)

    def data_received(self, data: bytes) -> None:
        if self.guest.admitted:
            super().data_received(data)
            return
        self._read += len(data)
        self._end += data
        if self._read > REQUEST_BYTES:
            self._refuse(f"it sent more than {REQUEST_BYTES:,} bytes of a request")
        elif 0 <= self._end.find(_REQUEST_END) < len(self._end) - len(_REQUEST_END):
            # websockets would read it as frames, fail, and log a traceback when it answers the request.
            self._refuse("it sent more than a request before it had an answer")
        else:
            self._end = self._end[-len(_REQUEST_END) :]
            super().data_received(data)
            if self.request is None and self.protocol.handshake_exc is not None:
                self._refuse("it did not send a request of HTTP/1.1")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.guest.leave()

    def _refuse(self, why: str) -> None:
        self._refusals.note(self.guest.name, why)
        self.abort()


def _name_version(_: ServerConnection, request: Request, response: Response) -> None:
    response.headers[wire.VERSION_HEADER] = str(wire.VERSION)
