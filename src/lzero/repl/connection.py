"""Send and receive frames over a socket, on the host's side.

The host reads only what it asked for, so a flood waits in the kernel's buffer.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lzero.errors import ReplError
from lzero.repl import wire

_READ_BYTES = 1 << 16


class Connection:
    """The host's end of a REPL's socket. Times are those of the event loop's clock.

    Every wait raises TimeoutError at its deadline, and ReplError if the host cannot watch another descriptor.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._woken: asyncio.Future[bool] = self._loop.create_future()

    async def send(self, message: wire.ToKernel, *, until: float) -> None:
        """Send a message. Raises ConnectionError if the other end is gone, ProtocolError if the message is too long."""
        await self.send_frame(wire.encode(message), until=until)

    async def send_frame(self, frame: bytes, *, until: float) -> None:
        """Send an encoded frame. Raises ConnectionError if the other end is gone."""
        rest = memoryview(frame)
        while rest:
            self._check_open()
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer, until)

    async def receive(self, *, until: float) -> wire.FromKernel:
        """Return the next message. Cancelling the wait loses no data.

        Raises ConnectionError at the end of the stream, ProtocolError for an invalid frame.
        """
        header = wire.HEADER.size
        needed = header
        while True:
            if needed == header and len(self._buffer) >= header:
                needed = header + wire.body_length(self._buffer[:header])
            if needed > header and len(self._buffer) >= needed:
                body = bytes(self._buffer[header:needed])
                del self._buffer[:needed]
                return wire.decode(body)
            await self._read(until)

    async def _read(self, until: float) -> None:
        while True:
            self._check_open()
            try:
                data = self._received()
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader, until)
                continue
            if not data:
                raise ConnectionResetError("end of stream")
            self._buffer += data
            return

    def _received(self) -> bytes:
        try:
            return self._socket.recv(_READ_BYTES)
        except ConnectionResetError:  # the other end closed without reading everything; its last data is still there
            return self._socket.recv(_READ_BYTES)

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object], until: float) -> None:
        self._woken = woken = self._loop.create_future()
        timer = self._loop.call_at(until, _settle, woken, False)
        try:
            with watchable():
                add(self._socket.fileno(), _settle, woken, True)
            if not await woken:
                raise TimeoutError
        finally:
            timer.cancel()
            if self._socket.fileno() >= 0:
                remove(self._socket.fileno())

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise ConnectionAbortedError("closed")

    def close(self) -> None:
        """Close the socket. Current and later calls raise ConnectionError. Safe to call twice."""
        descriptor = self._socket.fileno()
        if descriptor < 0:
            return
        self._loop.remove_reader(descriptor)  # its number may soon be that of another session
        self._loop.remove_writer(descriptor)
        self._socket.close()
        _settle(self._woken, True)


@contextmanager
def watchable(failure: type[ReplError] = ReplError) -> Iterator[None]:
    """Raise `failure` if the event loop cannot watch another descriptor."""
    try:
        yield
    except OSError as error:
        mend = "; raise the sysctl fs.epoll.max_user_watches" if error.errno == errno.ENOSPC else ""
        raise failure(f"the host cannot wait for a REPL: {error}{mend}") from None


def _settle(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
