"""Keep one live connection of a client to a pool server: send requests, and route each answer to its request."""

import asyncio
import itertools
import logging
import os
import ssl
from collections.abc import Callable
from contextlib import suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

from lzero.closing import closed_on_error
from lzero.errors import ProtocolError, ReplDied, ReplError, ServerLost
from lzero.repl.remote import wire
from lzero.turns import Turns

_CONNECT_TIMEOUT_S = 10.0
_BEATS_A_LEASE = 5
_BEAT_S = 1.0
"""Longest time between two beats."""
_WAITING = 4
"""The most unread messages of one request; an honest server sends one at a time."""
_GOODBYE_S = 2.0
_MOST_PIECES = 1024
"""The most fragments of one message; an honest end sends one."""
NORMAL = 1000
"""WebSocket's code for an end as agreed."""

QUIET = logging.getLogger("lzero.repl.websocket")
QUIET.setLevel(logging.WARNING)  # below, the library logs each connection, and every header with the token


class ServerRefused(ReplError):
    """The server or its certificate was refused for good: a wrong token, another version, an untrusted certificate."""


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc  # follow no redirect: the token is for the named server only


class Bounded(Connection):
    """A WebSocket with bounded memory: it ends if the other end pings without reading the answers, or sends too many fragments."""

    _num_pieces = 0
    """Fragments of the current message after its first."""
    _lost = False

    def process_event(self, event: Event) -> None:
        super().process_event(event)
        if isinstance(event, Frame):
            if event.opcode is Opcode.CONT:
                self._num_pieces += 1
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY):
                self._num_pieces = 0
            if self._num_pieces >= _MOST_PIECES or (self.paused and event.opcode is Opcode.PING):
                self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost = True

    def abort(self) -> None:
        """End the connection at once, unless it is lost. A lost transport of Python 3.11 may fail to abort."""
        if not self._lost:
            self.transport.abort()

    async def hang_up(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the connection, at the latest after some seconds for the other end to read why. Safe to call twice."""
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await (self.close(code, reason) if self.state is State.OPEN else self.wait_closed())
        except TimeoutError:
            pass
        finally:
            self.abort()


class _Connection(Bounded, ClientConnection):
    pass


class Inbox:
    """The messages that have arrived for one request."""

    def __init__(self, link: "Link", number: int) -> None:
        self.number = number
        self._link = link
        self._messages: asyncio.Queue[wire.Response | None] = asyncio.Queue()

    def put(self, message: wire.Response) -> None:
        """Add a message. Raises ProtocolError if the server sends more than the client asked for."""
        if self._messages.qsize() >= _WAITING:
            raise ProtocolError(f"more than {_WAITING} messages for one request")
        self._messages.put_nowait(message)

    def end(self) -> None:
        """Mark that no more messages will come."""
        self._messages.put_nowait(None)

    async def get(self, *, within_s: float) -> wire.Response:
        """Return the next message. Raises ServerLost if the link is lost, ReplDied if nothing comes, or the error of a failed request."""
        try:
            async with asyncio.timeout(within_s):
                message = await self._messages.get()
        except TimeoutError:
            raise ReplDied(f"the pool server {self._link.url} did not answer within {within_s:g} s") from None
        if message is None:
            raise ServerLost(self._link.epitaph)
        if isinstance(message, wire.Failed):
            raise wire.error_of(message)
        return message


class Link:
    """A live connection to a server. `Link.to` makes it. `lost` is done when the connection is gone; `epitaph` then says why."""

    def __init__(
        self, url: str, connection: Bounded, welcome: wire.Welcome, on_load: Callable[[wire.Load], None]
    ) -> None:
        """`welcome`: the server's first message. Raises ProtocolError if its facts are invalid."""
        self.url = url
        self.why_lost = ""
        self.file_bytes = welcome.file_bytes
        """Bytes of the largest file that the server transfers."""
        self.lifetime_s = welcome.lifetime_s
        """Seconds after which the server ends a REPL; None: never."""
        self.facts = wire.object_of(welcome.facts)
        """Description of what isolates the server's REPLs."""
        self.transfers = Turns(wire.TRANSFERS, f"a file transfer of the pool server {url}")
        """Turns for as many transfers as the server makes at once. So none waits at the server, where the time of its call would run on."""
        self._connection = connection
        self._on_load = on_load
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._numbers = itertools.count(1)
        self._inboxes: dict[int, Inbox] = {}
        self._heard = self._loop.time()
        on_load(welcome.load)
        self._tasks = (asyncio.create_task(self._read()), asyncio.create_task(self._beat(welcome.lease_s)))

    @classmethod
    async def to(
        cls, url: str, *, token: str, tls: ssl.SSLContext | None, on_load: Callable[[wire.Load], None]
    ) -> "Link":
        """Connect to a server. Raises ServerRefused if another attempt cannot help, otherwise ReplError; both name the server."""
        try:
            connection = await _Connect(
                url + wire.PATH,
                additional_headers={"Authorization": f"Bearer {token}", wire.VERSION_HEADER: str(wire.VERSION)},
                ssl=tls,
                proxy=None,
                compression=None,
                ping_interval=None,  # `_beat` replaces it
                open_timeout=_CONNECT_TIMEOUT_S,
                close_timeout=_GOODBYE_S,
                max_size=wire.MAX_MESSAGE,
                create_connection=_Connection,
                logger=QUIET,
            )
        except InvalidStatus as error:
            raise _refusal(url, error) from None
        except ssl.SSLCertVerificationError as error:
            raise ServerRefused(
                f"{url}: its certificate is not trusted ({error.verify_message}); set "
                "repl.certificate_authority to the certificate of the authority that signed it"
            ) from None
        except TimeoutError:
            raise ReplError(f"{url}: no answer within {_CONNECT_TIMEOUT_S:g} s") from None
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise ReplError(f"{url}: {reason}") from None
        except WebSocketException as error:
            raise ReplError(f"{url}: {error}") from None
        assert isinstance(connection, _Connection)
        async with closed_on_error(connection.hang_up):
            try:
                return cls(url, connection, await _greeting(url, connection), on_load)
            except TimeoutError:
                raise ReplError(f"{url}: it said nothing within {_CONNECT_TIMEOUT_S:g} s") from None
            except (ConnectionClosed, ProtocolError) as error:
                raise ReplError(f"{url}: {error}") from None

    @property
    def epitaph(self) -> str:
        return f"the pool server {self.url} was lost: {self.why_lost}"

    async def send(self, message: wire.FromClient) -> None:
        """Send a message. Raises ServerLost if the link is lost, ProtocolError if the message is too long."""
        data = wire.encode(message)
        if self.lost.done():
            raise ServerLost(self.epitaph)
        try:
            # `_beat` notices a server that reads nothing, and then this send ends too.
            await self._connection.send(data)
        except ConnectionClosed as error:
            self._lose(str(error))
            raise ServerLost(self.epitaph) from None

    def inbox(self) -> Inbox:
        """Return an inbox for a new request. The caller must call `forget` at the request's end."""
        inbox = Inbox(self, next(self._numbers))
        self._inboxes[inbox.number] = inbox
        if self.lost.done():
            inbox.end()
        return inbox

    def forget(self, inbox: Inbox) -> None:
        self._inboxes.pop(inbox.number, None)

    async def close(self) -> None:
        """Hang up. Safe to call twice."""
        self._lose("this pool was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.hang_up()

    async def _read(self) -> None:
        try:
            while True:
                message = await _received(self._connection)
                self._heard = self._loop.time()
                self._take(message)
        except ConnectionClosed as error:
            self._lose(str(error))
        except ProtocolError as error:
            self._lose(f"it broke the protocol: {error}")

    def _take(self, message: wire.FromServer) -> None:
        if isinstance(message, wire.Load):
            self._on_load(message)
            return
        if isinstance(message, wire.Welcome):
            raise ProtocolError("it said Welcome twice")
        if isinstance(message, wire.Opened | wire.Closed | wire.Failed):
            self._on_load(message.load)
        inbox = self._inboxes.get(message.id)
        if inbox is not None:  # else the caller has given up
            inbox.put(message)

    async def _beat(self, lease_s: float) -> None:
        """Send heartbeats to keep the lease, and notice a server that does not answer."""
        pause_s = min(_BEAT_S, lease_s / _BEATS_A_LEASE)
        beat = wire.encode(wire.Beat())
        while True:
            await asyncio.sleep(pause_s)
            if self._loop.time() - self._heard > lease_s:
                break
            try:
                with suppress(ConnectionClosed):  # the reader says how it ended
                    async with asyncio.timeout(lease_s):
                        await self._connection.send(beat)
            except TimeoutError:  # though it may go on talking
                self._lose(f"it took nothing for {lease_s:g} s")
                return
        self._lose(f"nothing was heard of it for {lease_s:g} s")

    def _lose(self, why: str) -> None:
        if self.lost.done():
            return
        self.why_lost = why
        self.lost.set_result(None)
        for inbox in self._inboxes.values():
            inbox.end()
        self._connection.abort()


async def _greeting(url: str, connection: Bounded) -> wire.Welcome:
    """Return the server's first message. Raises ServerRefused, TimeoutError, ConnectionClosed, ProtocolError."""
    assert connection.response is not None
    if connection.response.headers.get(wire.VERSION_HEADER) != str(wire.VERSION):
        raise ServerRefused(f"{url} is not a pool server")
    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
        first = await _received(connection)
    if not isinstance(first, wire.Welcome):
        raise ProtocolError(f"it began with {type(first).__name__}")
    return first


async def _received(connection: Bounded) -> wire.FromServer:
    """Return the next message. Raises ConnectionClosed, ProtocolError."""
    data = await connection.recv()
    if isinstance(data, str):
        raise ProtocolError("not a message of a server: text")
    return wire.decode_server(data)


def _refusal(url: str, error: InvalidStatus) -> ReplError:
    """Return the error for a response that is not a WebSocket."""
    body = bytes(error.response.body or b"")[:300].decode(errors="replace").strip()
    status = error.response.status_code
    if status == 401:
        return ServerRefused(
            f"{url}: {body}; repl.token_file, or LZERO_POOL_TOKEN, holds the one that the server was started with"
        )
    if status == 426:
        return ServerRefused(f"{url}: {body}; install the same lzero on both")
    return ReplError(f"{url}: no pool server answers there (HTTP {status} {body})".rstrip())
