"""What goes over the wire, on the host's side: typed, validated, bounded. Everything that comes in is agent output."""

import struct
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from lzero.errors import ProtocolError, ToolError
from lzero.protocols import ToolSpec, WithKernelSource
from lzero.types import Display, Error, Json, Output, Result, Stream, WorkspaceFile

MAX_FRAME = 8 * 1024 * 1024
MAX_OUTPUTS = 128
MAX_QUOTES = 1 << 20
"""Quotation marks in the JSON of all outputs of a cell, which bound how many strings these are: each costs the host fifty bytes,
and may take three in a frame. An honest kernel needs fewer: `repl.output_kb` ends at 4,000, and a quotation mark counts as eight
characters there, if it is in what is not text."""
_TEXT_SHARE, _OTHER_CHARS = 8, 300_000
"""Text has an eighth of what `repl.output_kb` allows. Names and messages of a hundred errors, types, and the notes on what was cut
come beside it."""
MAX_ARGUMENTS = 1 << 20
"""Bytes of JSON in a call."""
CHUNK_BYTES = 1 << 20
"""Of a file, in one frame; only its last chunk is shorter."""
MAX_PARAMETERS = 256
"""Of a tool."""
MAX_LISTED = 4096
MAX_LISTING = 1 << 20
"""Files in a listing, and bytes of its JSON."""
HEADER = struct.Struct(">I")


class ToolStub(Struct, frozen=True, kw_only=True):
    name: str
    parameters: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_PARAMETERS)]
    description: str
    kernel_source: str = ""
    """Of the session's side of a tool that is more than a function; see `protocols.WithKernelSource`."""


class Open(Struct, frozen=True, kw_only=True, tag="open"):
    """Host → kernel, once: become a session with these tools."""

    tools: tuple[ToolStub, ...]
    seed: int
    output_chars: int
    """What the outputs of a cell may hold together."""


class Run(Struct, frozen=True, kw_only=True, tag="run"):
    """Host → kernel: run a cell."""

    id: int
    code: str
    interrupts: int = 0
    """How often the last cell was interrupted: a signal may have come too late for it."""


class Settle(Struct, frozen=True, kw_only=True, tag="settle"):
    """Host → kernel: about to be copied. Answered by `Ready`."""


class Renew(Struct, frozen=True, kw_only=True, tag="renew"):
    """Host → kernel of a copy, once, before anything else: go on as a session of its own. Answered by `Ready`."""

    seed: int


class Reply(Struct, frozen=True, kw_only=True, tag="reply"):
    """Host → kernel: what the tool answered."""

    value: Json = None
    error: str | None = None


class Put(Struct, frozen=True, kw_only=True, tag="put"):
    """Host → kernel: write a file; chunks follow, the last one says so."""

    path: str


class Get(Struct, frozen=True, kw_only=True, tag="get"):
    """Host → kernel: send a file of no more than `max_bytes`, in chunks of `chunk_bytes`."""

    path: str
    max_bytes: int
    chunk_bytes: int = CHUNK_BYTES


class List(Struct, frozen=True, kw_only=True, tag="list"):
    """Host → kernel: tell the regular files of the workspace."""

    max_files: int = MAX_LISTED
    max_bytes: int = MAX_LISTING


class Chunk(Struct, frozen=True, kw_only=True, tag="chunk", forbid_unknown_fields=True):
    """Both ways: a part of a file. `data` is Base64 on the wire."""

    data: bytes
    last: bool


class Stored(Struct, frozen=True, kw_only=True, tag="stored", forbid_unknown_fields=True):
    """Kernel → host: the file is written."""


class Listing(Struct, frozen=True, kw_only=True, tag="listing", forbid_unknown_fields=True):
    """Kernel → host: the files of the workspace."""

    files: msgspec.Raw
    """JSON that nobody has decoded yet: see `files_of`."""


class Refused(Struct, frozen=True, kw_only=True, tag="refused", forbid_unknown_fields=True):
    """Kernel → host: the file cannot be had, or written. A number (errno(3)) and no words: they would be a stranger's."""

    errno: Annotated[int, msgspec.Meta(ge=1, le=4095)]  # the kernel's MAX_ERRNO


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


class _Done(Struct, frozen=True, kw_only=True, tag="done", forbid_unknown_fields=True):
    """`Done` whose outputs nobody has decoded yet."""

    id: int
    status: Literal["ok", "error"]
    outputs: msgspec.Raw


class Hello(Struct, frozen=True, kw_only=True, tag="hello", forbid_unknown_fields=True):
    """Zygote → host: warm, and this is where it lives."""

    os: str
    prefix: str
    pid: int


class Forked(Struct, frozen=True, kw_only=True, tag="forked", forbid_unknown_fields=True):
    """Zygote → host: one of the two first processes of a REPL is there, the init before the session. Its pid comes beside the
    message, as the kernel vouches for it."""

    id: int
    part: Literal["init", "session"]


class Uncopied(Struct, frozen=True, kw_only=True, tag="uncopied", forbid_unknown_fields=True):
    """Zygote → host: this copy was not made, and why."""

    id: int
    reason: str


class Signalled(Struct, frozen=True, kw_only=True, tag="signalled", forbid_unknown_fields=True):
    """Zygote → host: the signal has been sent, or there was nobody to send it to."""

    id: int


class Exited(Struct, frozen=True, kw_only=True, tag="exited", forbid_unknown_fields=True):
    """Zygote → host: a REPL has ended, with everything in it. A negative code is a signal."""

    id: int
    code: int


ToKernel = Open | Run | Settle | Renew | Reply | Put | Get | List | Chunk
FromKernel = Ready | Failed | Call | Done | Chunk | Stored | Listing | Refused
FromZygote = Hello | Forked | Uncopied | Signalled | Exited

_encoder = msgspec.json.Encoder()
_FromKernel = Ready | Failed | Call | _Done | Chunk | Stored | Listing | Refused
_from_kernel: msgspec.json.Decoder[_FromKernel] = msgspec.json.Decoder(_FromKernel)
_outputs: msgspec.json.Decoder[tuple[Output, ...]] = msgspec.json.Decoder(tuple[Output, ...])
_arguments: msgspec.json.Decoder[dict[str, Json]] = msgspec.json.Decoder(dict[str, Json])
_files: msgspec.json.Decoder[tuple[WorkspaceFile, ...]] = msgspec.json.Decoder(tuple[WorkspaceFile, ...])
_from_zygote: msgspec.json.Decoder[FromZygote] = msgspec.json.Decoder(FromZygote)


def stubs(tools: Sequence[ToolSpec]) -> tuple[ToolStub, ...]:
    """What a session is told of them."""
    return tuple(
        ToolStub(
            name=tool.name,
            parameters=tuple(tool.parameters),
            description=tool.description,
            kernel_source=tool.kernel_source if isinstance(tool, WithKernelSource) else "",
        )
        for tool in tools
    )


def encode(message: ToKernel) -> bytes:
    """A whole frame: its length, then JSON. Raises ProtocolError where it is too long."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(body)} bytes is longer than the {MAX_FRAME} that a frame holds")
    return HEADER.pack(len(body)) + body


def encode_reply(reply: Reply) -> bytes:
    """A whole frame; one that says so, where the answer is nothing that can be sent."""
    try:
        return encode(reply)
    except (ProtocolError, TypeError, OverflowError, UnicodeEncodeError, msgspec.EncodeError) as error:
        return encode(Reply(error=f"the answer cannot be sent: {error}"))


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
        if not isinstance(message, _Done):
            return message
        quotes = bytes(message.outputs).count(b'"')
        if quotes > MAX_QUOTES:
            raise ProtocolError(f"outputs with {quotes:,} quotation marks; {MAX_QUOTES:,} are allowed")
        outputs = _outputs.decode(message.outputs)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a frame: {_malformed(error)}") from None
    if len(outputs) > MAX_OUTPUTS:
        raise ProtocolError(f"{len(outputs)} outputs; {MAX_OUTPUTS} are allowed")
    return Done(id=message.id, status=message.status, outputs=outputs)


def check_size(outputs: Sequence[Output], output_chars: int) -> None:
    """Raise ProtocolError for more than a session sends of one cell, where its outputs have `output_chars` characters."""
    most_text, most = (output_chars // share + _OTHER_CHARS for share in (_TEXT_SHARE, 1))
    text, total = sum(map(_text_chars, outputs)), sum(map(_chars, outputs))
    if text > most_text or total > most:
        raise ProtocolError(
            f"outputs with {total:,} characters, {text:,} of them text; {most:,} and {most_text:,} are allowed"
        )


def _text_chars(output: Output) -> int:
    """Return the characters of what a model reads of it, which takes a second for a million."""
    if isinstance(output, Result | Display):
        return len(output.data["text/plain"]) if "text/plain" in output.data else sum(map(len, output.data))
    return _chars(output)


def _chars(output: Output) -> int:
    match output:
        case Stream():
            return len(output.text)
        case Error():
            return len(output.ename) + len(output.evalue) + sum(len(line) + 1 for line in output.traceback)
        case Result() | Display():
            return sum(len(mime) + len(text) for mime, text in output.data.items())


def arguments_of(call: Call) -> dict[str, Json]:
    """Raises ToolError for more than a tool is ever given, before that costs the host its time; ProtocolError for no object."""
    size = len(memoryview(call.arguments))
    if size > MAX_ARGUMENTS:
        raise ToolError(f"{call.name}: {size:,} bytes of arguments; {MAX_ARGUMENTS:,} are allowed", fault="agent")
    try:
        return _arguments.decode(call.arguments)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not the arguments of a call: {_malformed(error)}") from None


def files_of(listing: Listing) -> tuple[WorkspaceFile, ...]:
    """Raises ProtocolError for more than was asked for, before that costs the host its time, and for what is no listing."""
    size = len(memoryview(listing.files))
    if size > MAX_LISTING:
        raise ProtocolError(f"a listing of {size:,} bytes; {MAX_LISTING:,} are allowed")
    try:
        files = _files.decode(listing.files)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a listing of files: {_malformed(error)}") from None
    if len(files) > MAX_LISTED:
        raise ProtocolError(f"a listing of {len(files):,} files; {MAX_LISTED:,} are allowed")
    return files


def decode_zygote(packet: bytes) -> FromZygote:
    """Raises ProtocolError for anything but a valid message of a zygote."""
    try:
        return _from_zygote.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a message of the zygote: {_malformed(error)}") from None


def _malformed(error: Exception) -> str:
    """Return what is wrong with JSON from a sandbox. The decoder's own words would quote it, and the model would read that as ours."""
    return "JSON of another shape" if isinstance(error, msgspec.ValidationError) else "it cannot be read as JSON"
