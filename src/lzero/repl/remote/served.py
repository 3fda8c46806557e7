"""Serve one client of a pool server: its requests, its REPLs, its lease.

Every request is a separate task, so a cell that runs for a minute delays no other; a REPL serves one request at a time. Whatever ends the
connection also ends all its REPLs: the client closes it, breaks the protocol, or is silent for a whole lease.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from lzero.errors import LzeroError, PoolFull, ProtocolError, ReplDied, ReplError, ToolError, WorkspaceError
from lzero.protocols import OnCall, Repl, ReplPool
from lzero.repl.remote import wire
from lzero.repl.remote.link import Bounded
from lzero.types import Json

logger = logging.getLogger(__name__)
_GOODBYE_S = 2.0
_REASON_BYTES = 120
"""The most bytes of the reason in a WebSocket's close message."""
_TRANSFER_TIMEOUT_S = 120.0
_MISBEHAVED = 1008
"""WebSocket's code for a client that broke the rules."""


@dataclass(kw_only=True)
class Room:
    """The number of REPLs that all clients of a server share, and the limits that each client gets."""

    max_repls: int
    lease_s: float
    file_bytes: int
    lifetime_s: float | None
    repls: int = 0

    @property
    def full(self) -> bool:
        return self.repls >= self.max_repls

    def load(self) -> wire.Load:
        return wire.Load(repls=self.repls, max_repls=self.max_repls)


class _Broke(Exception):
    """The session broke with `error` while it transferred a file."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@dataclass(eq=False)
class _Served:
    """A REPL of the client, from the request that opens it to the one that closes it."""

    repl: Repl | None = None
    request: asyncio.Task[None] | None = None
    """The current or the last request."""
    number: int = 0
    """The number of that request."""
    in_call: bool = False
    """Whether its cell waits for the client's answer to a tool call. The client may read files meanwhile."""
    reading: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return self.request is not None and not self.request.done()

    @property
    def reads(self) -> bool:
        return self.reading is not None and not self.reading.done()


class Client:
    """One client with an open connection. `name` is for the log."""

    def __init__(self, connection: Bounded, pool: ReplPool, room: Room, name: str) -> None:
        self._connection = connection
        self._pool = pool
        self._room = room
        self._name = name
        self._sending = asyncio.Lock()
        self._gone = False
        self._repls: dict[int, _Served] = {}
        self._asked: dict[int, asyncio.Future[wire.InBetween]] = {}
        """Messages that a request waits for (a tool's answer, a part of a file), by the request's number."""
        self._carrying = asyncio.Semaphore(wire.TRANSFERS)
        self._closing: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve the client until the connection ends for any reason, and then end all its REPLs."""
        loop, lease_s = asyncio.get_running_loop(), self._room.lease_s
        try:
            async with asyncio.timeout(lease_s) as lease:
                await self._send(await self._welcome())
                while not self._gone:
                    message = await self._receive()
                    lease.reschedule(loop.time() + lease_s)
                    await self._handle(message)
        except ConnectionClosed:
            pass
        except TimeoutError:
            await self._dismiss(f"nothing was heard of it for {self._room.lease_s:g} s")
        except ProtocolError as error:
            await self._dismiss(str(error))
        finally:
            self._gone = True
            await self._end()

    async def _welcome(self) -> wire.Welcome:
        facts = wire.dump(dict(await asyncio.to_thread(self._pool.facts)))  # it may ask a program for its version
        room = self._room
        return wire.Welcome(
            lease_s=room.lease_s,
            file_bytes=room.file_bytes,
            lifetime_s=room.lifetime_s,
            facts=facts,
            load=room.load(),
        )

    async def _receive(self) -> wire.FromClient:
        """Return the next message. Raises ConnectionClosed, ProtocolError."""
        data = await self._connection.recv()
        if isinstance(data, str):
            raise ProtocolError("not a message of a client: text")
        return wire.decode_client(data)

    async def _handle(self, message: wire.FromClient) -> None:
        match message:
            case wire.Beat():
                await self._send(self._room.load())
            case wire.Reply() | wire.Part() | wire.More():
                asked = self._asked.get(message.id)
                if asked is not None and not asked.done():
                    asked.set_result(message)  # else the request has ended in the meantime
            case wire.Open():
                await self._begin(message, None)
            case wire.Close():
                closed = self._repls.pop(message.repl, None)
                if closed is None:
                    await self._send(wire.Closed(id=message.id, load=self._room.load()))
                else:
                    self._close(closed, message.id)
            case wire.Run() | wire.Fork() | wire.Put() | wire.Get() | wire.Files():
                known = self._repls.get(message.repl)
                if known is None:
                    await self._send(self._failure(message.id, ReplDied("the server has no such REPL")))
                elif known.in_call and isinstance(message, wire.Get) and not known.reads:
                    known.reading = asyncio.create_task(self._read(known, message))
                elif known.busy:
                    raise ProtocolError("two requests at once for one REPL")
                else:
                    await self._begin(message, known)

    async def _begin(self, message: wire.Open | wire.OfRepl, known: _Served | None) -> None:
        """Start the task of a request to a `known` REPL, or for a new one. Send an error if there is no room for a new one.

        Raises ProtocolError if the number of a new one is taken.
        """
        born = None
        if isinstance(message, wire.Open | wire.Fork):
            if message.id in self._repls:
                raise ProtocolError(f"a second REPL with the number {message.id}")
            if self._room.full:
                await self._send(self._failure(message.id, PoolFull("all REPLs of the server are taken")))
                return
            self._room.repls += 1
            self._repls[message.id] = born = _Served()
        served = known or born
        assert served is not None
        task = asyncio.create_task(self._answer(served, message, born))
        for each in (served, born):
            if each is not None:
                each.number, each.request = message.id, task

    async def _answer(self, served: _Served, message: wire.Open | wire.OfRepl, born: _Served | None) -> None:
        """Perform a request and send its answer. `born`: the REPL that it makes."""
        try:
            answer = await self._perform(served, message, born)
        except ConnectionClosed:  # in the middle of the request
            return
        except LzeroError as error:
            answer = self._failure(message.id, error)
        except Exception:
            logger.exception("a request of %s failed", self._name)
            answer = self._failure(message.id, ReplError("the pool server failed; its log says how"))
        finally:
            # If it failed, no request will close what it should have made.
            if born is not None and born.repl is None and self._repls.get(message.id) is born:
                del self._repls[message.id]
                self._room.repls -= 1
        await self._say(answer)

    async def _read(self, served: _Served, get: wire.Get) -> None:
        """Answer a request for a file during a tool call. If the session breaks during the transfer, its own cell fails, as it does
        locally."""
        try:
            answer = await self._perform(served, get, None)
        except ConnectionClosed:
            return
        except WorkspaceError as error:
            answer = self._failure(get.id, error)
        except (ReplError, ConnectionError) as error:
            asked = self._asked.get(served.number)
            if asked is not None and not asked.done():
                asked.set_exception(_Broke(error))
            answer = self._failure(get.id, ReplDied(f"the session broke as a file was read: {error}"))
        await self._say(answer)

    async def _perform(self, served: _Served, message: wire.Open | wire.OfRepl, born: _Served | None) -> wire.Response:
        if isinstance(message, wire.Open):
            served.repl = await self._pool.open(message.tools, self._tools_of(served), seed=message.seed)
            return wire.Opened(id=message.id, load=self._room.load())
        repl = served.repl
        assert repl is not None  # what is being opened is busy
        match message:
            case wire.Run():
                execution = await repl.run(message.code, deadline_s=message.deadline_s)
                return wire.Done(id=message.id, execution=execution)
            case wire.Fork():
                assert born is not None
                born.repl = await repl.fork(self._tools_of(born), seed=message.seed)
                return wire.Opened(id=message.id, load=self._room.load())
            case wire.Put():
                async with self._carried():
                    data = await self._parts(message)
                    await repl.put(message.path, data)
                return wire.Stored(id=message.id)
            case wire.Get():
                async with self._carried():
                    return await self._part_by_part(message.id, await repl.get(message.path))
            case wire.Files():
                return wire.Listing(id=message.id, files=await repl.files())

    @asynccontextmanager
    async def _carried(self) -> AsyncIterator[None]:
        """Take a place for a transfer. Raises ReplDied if the client does not complete it in time."""
        async with self._carrying:
            try:
                async with asyncio.timeout(_TRANSFER_TIMEOUT_S):
                    yield
            except TimeoutError:
                raise ReplDied(f"a file was not carried within {_TRANSFER_TIMEOUT_S:g} s") from None

    async def _parts(self, put: wire.Put) -> bytes:
        """Receive the file that the client puts. Raises ProtocolError if its size differs from the announced one."""
        if put.size > self._room.file_bytes:
            raise ProtocolError(f"a file of {put.size:,} bytes; {self._room.file_bytes:,} may be sent")
        data, last = bytearray(), False
        while not last:
            part = await self._ask(wire.More(id=put.id))
            if not isinstance(part, wire.Part) or len(data) + len(part.data) > put.size:
                raise ProtocolError(f"not the next part of a file of {put.size:,} bytes")
            data += part.data
            last = part.last
        return bytes(data)

    async def _part_by_part(self, number: int, data: bytes) -> wire.Part:
        """Send a file except for its last part, and return that as the answer."""
        start = 0
        while start + wire.PART_BYTES < len(data):
            part = wire.Part(id=number, data=data[start : start + wire.PART_BYTES], last=False)
            if not isinstance(await self._ask(part), wire.More):
                raise ProtocolError("not a request for the next part of a file")
            start += wire.PART_BYTES
        return wire.Part(id=number, data=data[start:], last=True)

    async def _ask(self, message: wire.Call | wire.Part | wire.More) -> wire.InBetween:
        """Send a message in the middle of a request, and return the client's answer.

        Raises ConnectionClosed; ReplDied if the REPL is closed before; ProtocolError if another request with this number waits.
        """
        data = wire.encode(message)
        if message.id in self._asked:
            raise ProtocolError(f"two requests with the number {message.id}")
        answer: asyncio.Future[wire.InBetween] = asyncio.get_running_loop().create_future()
        self._asked[message.id] = answer
        try:
            await self._send_bytes(data)
            return await answer
        finally:
            del self._asked[message.id]

    def _tools_of(self, served: _Served) -> OnCall:
        """Return the function that sends tool calls of this REPL to the client."""

        async def on_call(name: str, arguments: dict[str, Json]) -> Json:
            try:
                served.in_call = True
                reply = await self._ask(wire.Call(id=served.number, name=name, arguments=wire.dump(arguments)))
                if served.reads:
                    raise ProtocolError("a tool's answer in the middle of a file that it wanted to see")
                if not isinstance(reply, wire.Reply):
                    raise ProtocolError(f"{type(reply).__name__} where a tool's answer was due")
                if reply.error is not None:
                    raise ToolError(reply.error, fault="agent")
                return wire.value_of(reply)
            except _Broke as broke:
                raise broke.error from None
            except wire.UNSENDABLE as error:
                raise ToolError(f"{name} cannot be called from another machine: {error}", fault="agent") from None
            finally:
                served.in_call = False

        return on_call

    def _close(self, served: _Served, number: int | None) -> None:
        """Begin to end a REPL that is no longer in `_repls`, and then answer request `number`, if there is one."""
        task = asyncio.create_task(self._until_closed(served, number))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _until_closed(self, served: _Served, number: int | None) -> None:
        assert served.request is not None  # the one that opened it, at least
        try:
            if served.repl is None:
                served.request.cancel()  # it is being opened
                await asyncio.gather(served.request, return_exceptions=True)
            asked = self._asked.get(served.number)
            if asked is not None and not asked.done():
                asked.set_exception(ReplDied("this REPL has ended: it was closed"))
            if served.repl is not None:
                await served.repl.close()
            if served.reading is not None:
                served.reading.cancel()
                await asyncio.gather(served.reading, return_exceptions=True)
            _, late = await asyncio.wait({served.request}, timeout=_GOODBYE_S)  # its cell ends with it, and answers
            if late:
                served.request.cancel()
                await asyncio.gather(served.request, return_exceptions=True)
        except Exception:  # the client still gets its answer
            logger.exception("a REPL of %s was not closed in order", self._name)
        finally:
            self._room.repls -= 1
        if number is not None:
            await self._say(wire.Closed(id=number, load=self._room.load()))

    async def _end(self) -> None:
        for served in self._repls.values():
            self._close(served, None)
        self._repls.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _failure(self, number: int, error: LzeroError) -> wire.Failed:
        return wire.failure(number, error, self._room.load())

    async def _say(self, answer: wire.Response) -> None:
        """Send the answer of a request, from the request's task."""
        try:
            data = wire.encode(answer)
        except ProtocolError as error:
            data = wire.encode(self._failure(answer.id, ReplDied(f"what it answered cannot be sent: {error}")))
        with suppress(ConnectionClosed):
            await self._send_bytes(data)

    async def _send(self, message: wire.FromServer) -> None:
        await self._send_bytes(wire.encode(message))

    async def _send_bytes(self, data: bytes) -> None:
        """Send a message. Raises ConnectionClosed, also after it has dismissed a client that read nothing for a whole lease."""
        try:
            async with asyncio.timeout(self._room.lease_s), self._sending:  # a waiting message fills no buffer
                if self._gone:
                    raise ConnectionClosedError(None, None)
                await self._connection.send(data)
        except TimeoutError:
            await self._dismiss(f"it took nothing for {self._room.lease_s:g} s")
            raise ConnectionClosedError(None, None) from None

    async def _dismiss(self, why: str) -> None:
        """Close the connection, which ends `serve`."""
        if self._gone:
            return
        self._gone = True
        logger.warning("the connection of %s is closed: %s", self._name, why)
        await self._connection.hang_up(_MISBEHAVED, why.encode()[:_REASON_BYTES].decode(errors="ignore"))
