"""Check what the host makes of any bytes from a sandbox: a valid message or answer, or a typed refusal.

Each target raises for anything else. `test_frames.py` feeds them by hypothesis, `fuzz_by_coverage.py` by a coverage-guided fuzzer.
"""

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Literal, cast, get_args

import msgspec

from lzero.config import ReplConfig
from lzero.errors import ProtocolError, ReplError, ToolError, WorkspaceError
from lzero.repl import wire
from lzero.repl.connection import Connection
from lzero.repl.remote import wire as remote_wire
from lzero.repl.session import LocalRepl
from lzero.repl.zygote_handle import Child, ZygoteHandle
from lzero.types import Json

Request = Literal["become", "run", "put", "get", "files"]
"""Requests that the host makes of a session."""
REQUESTS: tuple[Request, ...] = get_args(Request)
PATIENCE_S = 20.0
OUTPUT_CHARS = 2_000_000


def frame(body: bytes) -> bytes:
    return wire.HEADER.pack(len(body)) + body


def decode(data: bytes) -> None:
    """Pass the same bytes to every decoder of a sandbox's messages."""
    for decoder in (wire.decode, wire.decode_zygote):
        with suppress(ProtocolError):
            msgspec.json.encode(decoder(data))  # what came through can be written down
    with suppress(ProtocolError):
        assert wire.body_length(data[:4].ljust(4, b"\0")) <= wire.MAX_FRAME
    with suppress(ProtocolError, ToolError):
        msgspec.json.encode(wire.arguments_of(wire.Call(id=1, name="x", arguments=msgspec.Raw(data))))
    with suppress(ProtocolError):
        msgspec.json.encode(wire.files_of(wire.Listing(files=msgspec.Raw(data))))
    with suppress(ProtocolError):
        msgspec.json.encode(wire.outputs_of(wire.Done(id=1, status="ok", outputs=msgspec.Raw(data)), OUTPUT_CHARS))


def decode_remote(data: bytes) -> None:
    """Pass bytes to the decoders of a pool's server and of its clients."""
    for decoder in (remote_wire.decode_client, remote_wire.decode_server):
        with suppress(ProtocolError):
            msgspec.msgpack.encode(decoder(data))
    for inner in (remote_wire.object_of, lambda data: remote_wire.value_of(remote_wire.Reply(id=1, value=data))):
        with suppress(ProtocolError):
            msgspec.json.encode(inner(data))


async def read(data: bytes, cuts: Iterable[int]) -> None:
    """Check that a stream in pieces reads like the stream at once."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    writing = asyncio.create_task(_write(theirs, data, sorted({cut for cut in cuts if 0 < cut < len(data)})))
    read: list[wire.FromKernel | str] = []
    try:
        while True:
            read.append(await connection.receive(until=asyncio.get_running_loop().time() + PATIENCE_S))
    except (ProtocolError, ConnectionError) as error:
        read.append("broken" if isinstance(error, ProtocolError) else "ended")
    finally:
        await _end(writing, theirs)
        connection.close()
    assert read == _read_at_once(data)


def _read_at_once(data: bytes) -> list[wire.FromKernel | str]:
    found: list[wire.FromKernel | str] = []
    header = wire.HEADER.size
    try:
        while len(data) >= header:
            length = wire.body_length(data[:header])
            if len(data) < header + length:
                break
            found.append(wire.decode(data[header : header + length]))
            data = data[header + length :]
    except ProtocolError:
        return [*found, "broken"]
    return [*found, "ended"]


async def ask(request: Request, data: bytes) -> None:
    """Send a request to a session whose whole output is `data`, followed by silence."""
    ours, theirs = socket.socketpair()
    child = Child(1)
    child.forked.set_result(1)
    child.ended.set_result(-9)
    # It has ended already: its zygote is asked nothing any more.
    repl = LocalRepl(cast(ZygoteHandle, None), child, Connection(ours), _echo, ReplConfig())
    writing = asyncio.create_task(_write(theirs, data, ()))
    try:
        async with asyncio.timeout(PATIENCE_S):
            match request:
                case "become":
                    await repl.become((), seed=0)
                case "run":
                    execution = await repl.run("1", deadline_s=PATIENCE_S)
                    msgspec.json.encode(execution)
                case "put":
                    await repl.put("file", b"data")
                case "get":
                    await repl.get("file")
                case "files":
                    msgspec.json.encode(await repl.files())
    except (ReplError, WorkspaceError):
        pass
    finally:
        await _end(writing, theirs)
        await repl.close()


async def _echo(name: str, arguments: dict[str, Json]) -> Json:
    if name == "fail":
        raise ToolError("it fails", fault="tool")
    return arguments


async def _write(end: socket.socket, data: bytes, cuts: Iterable[int]) -> None:
    end.setblocking(False)
    start = 0
    with suppress(ConnectionError):
        for cut in (*cuts, len(data)):
            await asyncio.get_running_loop().sock_sendall(end, data[start:cut])
            await asyncio.sleep(0)
            start = cut
        end.shutdown(socket.SHUT_WR)


async def _end(writing: asyncio.Task[None], end: socket.socket) -> None:
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    end.close()
