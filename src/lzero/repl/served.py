"""One client of a pool's server: its requests, its REPLs, its lease.

Every request is a task of its own, so that a cell that runs for a minute holds nobody up; a REPL serves one at a time. Whatever
ends the connection (the client closes it, breaks the protocol, or is not heard of for a whole lease) ends all its REPLs.
"""

import asyncio
import logging
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from lzero.errors import LzeroError, ProtocolError, ReplDied, ReplError, ToolError
from lzero.protocols import OnCall, Repl, ReplPool
from lzero.repl import remote_wire as wire
from lzero.types import Json

logger = logging.getLogger(__name__)
_GOODBYE_S = 2.0
_REASON_BYTES = 120
"""What a WebSocket may say as it closes."""
_MISBEHAVED = 1008
"""WebSocket's code for a client that broke the rules."""


class Room:
    """How many REPLs a server may hold, all clients together, and for how long unheard of."""

    def __init__(self, max_repls: int, lease_s: float) -> None:
        self.max_repls = max_repls
        self.lease_s = lease_s
        self.repls = 0

    @property
    def full(self) -> bool:
        return self.repls >= self.max_repls

    def load(self) -> wire.Load:
        return wire.Load(repls=self.repls, max_repls=self.max_repls, lease_s=self.lease_s)


class _Served:
    """A REPL of the client, from the request that opens it to the one that closes it."""

    def __init__(self) -> None:
        self.repl: Repl | None = None
        self.request: asyncio.Task[None] | None = None
        """What it is busy with, or was last."""
        self.number = 0
        """Of that request."""

    @property
    def busy(self) -> bool:
        return self.request is not None and not self.request.done()


class Client:
    """Serves one accepted WebSocket. `name` is for the log."""

    def __init__(self, websocket: WebSocket, pool: ReplPool, room: Room, name: str) -> None:
        self._websocket = websocket
        self._pool = pool
        self._room = room
        self._name = name
        self._sending = asyncio.Lock()
        self._gone = False
        self._repls: dict[int, _Served] = {}
        self._calls: dict[int, asyncio.Future[Json]] = {}
        """Tools that were asked for and have not answered, by the number of the request that runs the cell."""
        self._closing: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Until the connection ends, for whatever reason; then nothing of this client is left."""
        try:
            await self._send(self._room.load())
            while (message := await self._receive()) is not None:
                await self._handle(message)
        except WebSocketDisconnect:
            pass
        except TimeoutError:
            await self._dismiss(f"nothing was heard of it for {self._room.lease_s:g} s")
        except ProtocolError as error:
            await self._dismiss(str(error))
        finally:
            self._gone = True
            await self._end()

    async def _receive(self) -> wire.FromClient | None:
        """None when the client has gone. Raises TimeoutError at the end of the lease, ProtocolError."""
        async with asyncio.timeout(self._room.lease_s):
            event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            return None
        if event.get("bytes") is None:
            raise ProtocolError("not a message of a client: text")
        return wire.decode_client(event["bytes"])

    async def _handle(self, message: wire.FromClient) -> None:
        match message:
            case wire.Beat():
                await self._send(self._room.load())
            case wire.Reply():
                self._settle(message)
            case wire.Open():
                if message.id in self._repls:
                    raise ProtocolError(f"a second REPL with the number {message.id}")
                if self._room.full:
                    error = wire.PoolFull(f"all its {self._room.max_repls} REPLs are taken")
                    await self._send(wire.failure(message.id, error, self._room.load()))
                    return
                self._room.repls += 1
                self._repls[message.id] = served = _Served()
                self._begin(served, message)
            case wire.Close():
                closed = self._repls.pop(message.repl, None)
                if closed is None:
                    await self._send(wire.Closed(id=message.id, load=self._room.load()))
                else:
                    self._close(closed, message.id)
            case _:
                known = self._repls.get(message.repl)
                if known is None:
                    error = ReplDied(f"there is no REPL {message.repl}")
                    await self._send(wire.failure(message.id, error, self._room.load()))
                    return
                self._begin(known, message)

    def _begin(self, served: _Served, message: wire.Open | wire.Run) -> None:
        if served.busy:
            raise ProtocolError("two requests at once for one REPL")
        served.number = message.id
        served.request = asyncio.create_task(self._answer(served, message))

    async def _answer(self, served: _Served, message: wire.Open | wire.Run) -> None:
        try:
            answer: wire.Answer = await self._perform(served, message)
        except (WebSocketDisconnect, TimeoutError):  # of a call that could not be sent
            return
        except LzeroError as error:
            answer = wire.failure(message.id, error, self._room.load())
        except Exception:
            logger.exception("request of %s failed", self._name)
            error = ReplError("the server failed; its log says how")
            answer = wire.failure(message.id, error, self._room.load())
        finally:
            if served.repl is None and self._repls.pop(message.id, None) is not None:
                self._room.repls -= 1
        await self._say(answer)

    async def _perform(self, served: _Served, message: wire.Open | wire.Run) -> wire.Answer:
        match message:
            case wire.Open():
                served.repl = await self._pool.open(message.tools, self._tools_of(served), seed=message.seed)
                return wire.Opened(id=message.id, load=self._room.load())
            case wire.Run():
                assert served.repl is not None  # it is busy until it is open
                execution = await served.repl.run(message.code, deadline_s=message.deadline_s)
                return wire.Done(id=message.id, execution=execution)

    def _tools_of(self, served: _Served) -> OnCall:
        """How tool calls of this REPL reach the client."""

        async def on_call(name: str, arguments: dict[str, Json]) -> Json:
            number = served.number
            try:
                call = wire.encode(wire.Call(id=number, name=name, arguments=wire.dump(arguments)))
            except wire.UNSENDABLE as error:
                raise ToolError(f"{name}: arguments that cannot be sent: {error}", fault="agent") from None
            self._calls[number] = answer = asyncio.get_running_loop().create_future()
            try:
                await self._send_bytes(call)
                return await answer
            finally:
                del self._calls[number]

        return on_call

    def _settle(self, reply: wire.Reply) -> None:
        waiting = self._calls.get(reply.id)
        if waiting is None or waiting.done():
            return  # the cell has ended in the meantime
        if reply.error is not None:
            waiting.set_exception(ToolError(reply.error, fault="agent"))
        else:
            waiting.set_result(wire.value_of(reply))

    def _close(self, served: _Served, number: int | None) -> None:
        """Begin to end a REPL that is no longer among `_repls`; request `number`, if there is one, is answered."""
        task = asyncio.create_task(self._until_closed(served, number))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _until_closed(self, served: _Served, number: int | None) -> None:
        assert served.request is not None  # the one that opened it, at least
        try:
            if served.repl is None:
                served.request.cancel()  # it is being opened
                await asyncio.gather(served.request, return_exceptions=True)
            call = self._calls.get(served.number)
            if call is not None and not call.done():
                call.set_exception(ToolError("the REPL was closed", fault="agent"))
            if served.repl is not None:
                await served.repl.close()
            await asyncio.gather(served.request, return_exceptions=True)  # its cell ends with it
        finally:
            self._room.repls -= 1
        if number is not None:
            await self._say(wire.Closed(id=number, load=self._room.load()))

    async def _end(self) -> None:
        for served in self._repls.values():
            self._close(served, None)
        self._repls.clear()
        for outcome in await asyncio.gather(*self._closing, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.error("a REPL of %s was not closed in order: %r", self._name, outcome)

    async def _say(self, answer: wire.Answer) -> None:
        """Send from a request's task: a client that does not take it is dismissed."""
        try:
            await self._send(answer)
        except WebSocketDisconnect:
            pass
        except TimeoutError:
            await self._dismiss(f"it took nothing for {self._room.lease_s:g} s")

    async def _send(self, message: wire.FromServer) -> None:
        await self._send_bytes(wire.encode(message))

    async def _send_bytes(self, data: bytes) -> None:
        """Raises WebSocketDisconnect, and TimeoutError where the client takes nothing for a whole lease."""
        async with asyncio.timeout(self._room.lease_s), self._sending:  # one at a time: what waits is not in a buffer yet
            if self._gone:
                raise WebSocketDisconnect
            await self._websocket.send_bytes(data)

    async def _dismiss(self, why: str) -> None:
        """Close the connection; the end of it ends `serve`."""
        if self._gone:
            return
        self._gone = True
        logger.warning("the connection of %s is closed: %s", self._name, why)
        reason = why.encode()[:_REASON_BYTES].decode(errors="ignore")
        with suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(_GOODBYE_S):
                await self._websocket.close(code=_MISBEHAVED, reason=reason)
