"""Offer a pool of this machine over the network: `lzero pool serve`.

    async with LocalPool() as pool, PoolServer(pool, token=token) as server:
        print(server.url)

The ASGI application has two routes behind the bearer token. `GET /load` returns the load, and a WebSocket at `/repls` serves one client
with all its REPLs (`lzero.repl.remote.served`). It listens on loopback by default. Elsewhere it requires TLS, or `--insecure`.

uvicorn always uses the parsers named here, whichever others are installed, because each bounds what it reads. `lzero.repl.remote.door`
bounds the number of connections without the token, and their time.
"""

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame

from lzero.closing import Service
from lzero.config import ReplConfig
from lzero.errors import ConfigError
from lzero.protocols import ReplPool
from lzero.repl.remote import wire
from lzero.repl.remote.door import Door, Guest, Refusals
from lzero.repl.remote.served import Client, Room
from lzero.serving import Serving

logger = logging.getLogger(__name__)
_FILE_BYTES = ReplConfig().file_mb << 20
_USUAL = Serving()
_OTHER_VERSION = 426
"""HTTP's status code for a client that should use another version."""
REQUEST_BYTES = 16 << 10
"""Bytes that a connection may send as HTTP: request line, headers and body. An honest request has a few hundred, and no body."""
_GUEST = "guest"
"""Key of the connection in a request's state."""
_MOST_PIECES = 1024
"""The most fragments of one message; an honest client sends one."""
_LAST_WORDS_S = 5.0
"""Seconds for a client to read why its connection is closed, if it reads at all."""
_UNSENT_BYTES = 1 << 16
"""The most unsent bytes in the kernel for one client. The kernel's own bound is some megabytes. A client that reads nothing would take a
while to fill these with short answers, and would seem to read meanwhile.
"""
_GRACE_S = 20
"""Seconds for clients to disconnect when the server ends."""


class PoolServer(Service):
    """Serves `pool` at `url` in the running event loop. It neither starts nor closes the pool."""

    def __init__(
        self,
        pool: ReplPool,
        serving: Serving = _USUAL,
        *,
        token: str,
        file_bytes: int = _FILE_BYTES,
        lifetime_s: float | None = None,
    ) -> None:
        """`file_bytes`: the largest file that the pool's REPLs take. `lifetime_s`: seconds after which the pool ends a REPL; None: never.

        Raises ConfigError for a lease that is not positive, or too long.
        """
        lease_s = serving.lease_s
        if not 0.0 < lease_s <= wire.MAX_DEADLINE_S:
            raise ConfigError(f"--lease-s = {lease_s:g}: the maximum is {wire.MAX_DEADLINE_S:g} seconds")
        self._room = Room(max_repls=serving.max_repls, lease_s=lease_s, file_bytes=file_bytes, lifetime_s=lifetime_s)
        self._refusals = Refusals()
        self._app = application(pool, token=token, room=self._room, refusals=self._refusals)
        self._serving = serving
        self._port = serving.port
        self._listener: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The address for `repl.servers`."""
        scheme = "ws" if self._serving.certificate is None else "wss"
        host = socket.gethostname() if self._serving.host in ("0.0.0.0", "::") else self._serving.host  # noqa: S104 - compared, not bound
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def bind(self) -> None:
        """Take the port, without serving yet. Raises ConfigError for a port in use, a certificate that cannot be read, …"""
        config = uvicorn.Config(
            self._app,
            loop="asyncio",
            http=_Http,
            ws=_WebSocket,
            ws_max_size=wire.MAX_MESSAGE,
            ws_per_message_deflate=False,  # messages are short, or urgent
            ws_ping_interval=None,  # clients beat by themselves
            lifespan="off",
            proxy_headers=False,  # name clients by their address, not by their headers
            log_config=None,
            log_level="error",  # a stranger could cause a warning with each message
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
            ssl_certfile=self._serving.certificate,
            ssl_keyfile=self._serving.key,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"cannot use the certificate {self._serving.certificate} with its key {self._serving.key}: {error}"
            ) from None
        logging.getLogger("uvicorn.error").addFilter(_no_refusals)
        self._listener = await asyncio.to_thread(self._listen)
        self._port = self._listener.getsockname()[1]
        self._server = _Server(config, self._listener, self._refusals)

    async def start(self) -> None:
        """Serve, and return when clients can connect. Raises as `bind` does."""
        if self._listener is None:
            await self.bind()
        assert self._listener is not None
        assert self._server is not None
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.001)  # the server starts without waiting for anything

    async def ended(self) -> None:
        """Return when the server has ended."""
        assert self._task is not None
        await asyncio.shield(self._task)

    async def close(self) -> None:
        """Close every client's REPLs, and the port. Safe to call twice."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
        if self._listener is not None:
            self._listener.close()

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


class _Server(uvicorn.Server):
    """A uvicorn server that accepts connections through `Door`. It leaves signals to the owner of the event loop."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, refusals: Refusals) -> None:
        super().__init__(config)
        self._refusals = refusals
        self._door = Door(listener, config.ssl, self._protocol, refusals)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        self.servers = []  # uvicorn's own listeners, not used
        self._door.open(self._end)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self._door.close()
        finally:
            await super().shutdown()

    def _protocol(self, guest: Guest) -> asyncio.Protocol:
        return _Http(guest, self._refusals, self.config, self.server_state)

    def _end(self) -> None:
        self.should_exit = True


class _Http(H11Protocol):
    """Serves one request, and reads at most `REQUEST_BYTES` for it."""

    def __init__(self, guest: Guest, refusals: Refusals, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {_GUEST: guest})
        self._guest = guest
        self._refusals = refusals
        self._read = 0

    def data_received(self, data: bytes) -> None:
        self._read += len(data)
        if self._read <= REQUEST_BYTES:
            super().data_received(data)
        else:
            self._refuse(f"it sent more than {REQUEST_BYTES:,} bytes of a request")

    def send_400_response(self, msg: str) -> None:
        self._refuse("it did not send a request of HTTP/1.1")

    def on_response_complete(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._guest.leave()

    def _refuse(self, why: str) -> None:
        self._refusals.note(self._guest.name, why)
        self.transport.abort()


class _WebSocket(WebSocketsSansIOProtocol):
    """A WebSocket with bounded memory and a bounded end.

    It aborts the connection of a client that sends too many fragments of a message, or pings without reading the answers. It waits only
    briefly for a client to read the close message.
    """

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _MOST_PIECES:
            self.transport.abort()
        else:
            super().handle_cont(event)

    def handle_ping(self) -> None:
        if self.transport.is_closing():
            return
        super().handle_ping()
        if not self.writable.is_set():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.app_state[_GUEST].leave()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self.loop.call_later(_LAST_WORDS_S if self.writable.is_set() else 0.0, self.transport.abort)


def _no_refusals(record: logging.LogRecord) -> bool:
    """Drop uvicorn's error about refused handshakes: it takes a complete refusal for a forgotten handshake."""
    return "without completing handshake" not in record.msg


def application(pool: ReplPool, *, token: str, room: Room, refusals: Refusals) -> ASGIApp:
    """Return the ASGI application. A request's state holds its connection."""

    async def load(_: Request) -> Response:
        load = {**pool.stats(), "repls": room.repls, "max_repls": room.max_repls}
        return JSONResponse(load, headers={"Connection": "close"})

    async def repls(websocket: WebSocket) -> None:
        name = f"{websocket.client.host}:{websocket.client.port}" if websocket.client else "a client"
        theirs = websocket.headers.get(wire.VERSION_HEADER, "none")
        if theirs != str(wire.VERSION):
            logger.warning(
                "%s is refused: it speaks version %s of the pool's protocol, not %d", name, theirs, wire.VERSION
            )
            text = f"the server speaks version {wire.VERSION} of the pool's protocol, this client version {theirs}"
            await websocket.send_denial_response(PlainTextResponse(text, status_code=_OTHER_VERSION))
            return
        await websocket.accept(headers=[(wire.VERSION_HEADER.encode(), str(wire.VERSION).encode())])
        await Client(websocket, pool, room, name).serve()

    routes = [Route("/load", load), WebSocketRoute(wire.PATH, repls)]
    return _Guard(Starlette(routes=routes), token, refusals)


class _Guard:
    """Refuses every request without the token."""

    def __init__(self, app: ASGIApp, token: str, refusals: Refusals) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        guest: Guest = scope["state"][_GUEST]
        if hmac.compare_digest(given, self._expected):
            if scope["type"] == "websocket":
                guest.admit()
            await self._app(scope, receive, send)
            return
        self._refusals.note(guest.name, f"its token is {'another one' if given else 'missing'}")
        text = "the token is not this server's" if given else "a token is needed: Authorization: Bearer …"
        headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
        response = PlainTextResponse(text, status_code=401, headers=headers)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(response)
        else:
            await response(scope, receive, send)
