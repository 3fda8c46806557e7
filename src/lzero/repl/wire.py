"""What goes over the wire, on the host's side: typed, validated, bounded. Everything that comes in is agent output."""

import struct
from typing import Literal

import msgspec
from msgspec import Struct

from lzero.errors import ProtocolError, ToolError
from lzero.types import Json, Output

MAX_FRAME = 8 * 1024 * 1024
MAX_OUTPUTS = 128
MAX_ARGUMENTS = 1 << 20
"""Bytes of JSON in a call."""
HEADER = struct.Struct(">I")


class ToolStub(Struct, frozen=True, kw_only=True):
    name: str
    parameters: tuple[str, ...]
    description: str


class Open(Struct, frozen=True, kw_only=True, tag="open"):
    """Host → kernel, once: become a session with these tools."""

    tools: tuple[ToolStub, ...]
    seed: int


class Run(Struct, frozen=True, kw_only=True, tag="run"):
    """Host → kernel: run a cell."""

    id: int
    code: str


class Reply(Struct, frozen=True, kw_only=True, tag="reply"):
    """Host → kernel: what the tool answered."""

    value: Json = None
    error: str | None = None


class Ready(Struct, frozen=True, kw_only=True, tag="ready", forbid_unknown_fields=True):
    """Kernel → host: the session is there."""


class Failed(Struct, frozen=True, kw_only=True, tag="failed", forbid_unknown_fields=True):
    """Kernel → host: the session could not be shut in, and did not start."""

    reason: str


class Call(Struct, frozen=True, kw_only=True, tag="call", forbid_unknown_fields=True):
    """Kernel → host: call a tool. Numbered from 1."""

    id: int
    name: str
    arguments: msgspec.Raw
    """JSON that nobody has decoded yet: see `arguments_of`."""


class Done(Struct, frozen=True, kw_only=True, tag="done", forbid_unknown_fields=True):
    """Kernel → host: cell `id` has ended."""

    id: int
    status: Literal["ok", "error"]
    outputs: tuple[Output, ...]


class Hello(Struct, frozen=True, kw_only=True, tag="hello", forbid_unknown_fields=True):
    """Zygote → host: warm, and this is where it lives."""

    os: str
    prefix: str
    pid: int


class Forked(Struct, frozen=True, kw_only=True, tag="forked", forbid_unknown_fields=True):
    """Zygote → host: a REPL is there. Its pid comes beside the message, as the kernel vouches for it."""

    id: int


class Signalled(Struct, frozen=True, kw_only=True, tag="signalled", forbid_unknown_fields=True):
    """Zygote → host: the signal has been sent, or there was nobody to send it to."""

    id: int


class Exited(Struct, frozen=True, kw_only=True, tag="exited", forbid_unknown_fields=True):
    """Zygote → host: a REPL has ended, with everything in it. A negative code is a signal."""

    id: int
    code: int


FromKernel = Ready | Failed | Call | Done
FromZygote = Hello | Forked | Signalled | Exited

_encoder = msgspec.json.Encoder()
_from_kernel: msgspec.json.Decoder[FromKernel] = msgspec.json.Decoder(FromKernel)
_arguments: msgspec.json.Decoder[dict[str, Json]] = msgspec.json.Decoder(dict[str, Json])
_from_zygote: msgspec.json.Decoder[FromZygote] = msgspec.json.Decoder(FromZygote)


def encode(message: Open | Run | Reply) -> bytes:
    """A whole frame: its length, then JSON. Raises ProtocolError where it is too long."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(body)} bytes is longer than the {MAX_FRAME} that a frame holds")
    return HEADER.pack(len(body)) + body


def body_length(header: bytes | bytearray) -> int:
    """Raises ProtocolError for a length that no frame has."""
    (length,) = HEADER.unpack(header)
    if not 2 <= length <= MAX_FRAME:
        raise ProtocolError(f"a frame of {length} bytes; 2 to {MAX_FRAME} are allowed")
    return int(length)


def decode(body: bytes) -> FromKernel:
    """Raises ProtocolError for anything but a valid frame of a kernel."""
    try:
        message = _from_kernel.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a frame: {str(error)[:200]}") from None
    if isinstance(message, Done) and len(message.outputs) > MAX_OUTPUTS:
        raise ProtocolError(f"{len(message.outputs)} outputs; {MAX_OUTPUTS} are allowed")
    return message


def arguments_of(call: Call) -> dict[str, Json]:
    """Raises ToolError for more than a tool is ever given, before that costs the host its time; ProtocolError for no object."""
    size = len(memoryview(call.arguments))
    if size > MAX_ARGUMENTS:
        raise ToolError(f"{call.name}: {size:,} bytes of arguments; {MAX_ARGUMENTS:,} are allowed", fault="agent")
    try:
        return _arguments.decode(call.arguments)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not the arguments of a call: {str(error)[:200]}") from None


def decode_zygote(packet: bytes) -> FromZygote:
    """Raises ProtocolError for anything but a valid message of a zygote."""
    try:
        return _from_zygote.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a message of the zygote: {str(error)[:200]}") from None
