"""Define the messages between host and session, on the host's side: typed, validated, bounded. All incoming data is agent output."""

import struct
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Struct

from lzero.errors import ProtocolError, ToolError
from lzero.json_bounds import has_too_many
from lzero.protocols import ToolStub
from lzero.types import Display, Error, Json, Output, Result, Stream, WorkspaceFile

MAX_FRAME = 8 * 1024 * 1024
MAX_OUTPUTS = 128
MAX_QUOTES = 1 << 20
"""The most quotation marks in the JSON of all outputs of a cell. They bound the number of strings: each costs the host fifty bytes, and may
take three in a frame. An honest kernel stays below: `repl.output_kb` ends at 4,000, and a quotation mark outside of text counts as eight
characters there.
"""
_TEXT_SHARE, _OTHER_CHARS = 8, 300_000
"""Text may take an eighth of `repl.output_kb`. The other characters are for names and messages of a hundred errors, for types, and for
notes on what was cut.
"""
MAX_ARGUMENTS = 1 << 20
"""Bytes of JSON in a call."""
MAX_ARGUMENT_VALUES = 50_000
"""Objects, lists and commas in the arguments of a call. A million bytes of `{},` hold up the event loop for a tenth of a second."""
CHUNK_BYTES = 1 << 20
"""Bytes of a file in one frame; only the last chunk is shorter."""
MAX_LISTED = 4096
MAX_LISTING = 1 << 20
"""The most files in a listing, and bytes of its JSON."""
HEADER = struct.Struct(">I")
_Decoded = TypeVar("_Decoded")


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=str.lower):
    """A message whose `type` in JSON is the name of its class."""


class Open(Message, frozen=True, kw_only=True):
    """Host → kernel, once: become a session with these tools."""

    tools: tuple[ToolStub, ...]
    seed: int
    output_chars: int
    """The most characters of a cell's outputs together."""


class Run(Message, frozen=True, kw_only=True):
    """Host → kernel: run a cell."""

    id: int
    code: str
    interrupts: int = 0
    """Number of times that the last cell was interrupted. One of these signals may have come too late for it."""


class Settle(Message, frozen=True, kw_only=True):
    """Host → kernel: prepare to be copied. Answered by `Ready`."""


class Renew(Message, frozen=True, kw_only=True):
    """Host → kernel of a copy, once, as its first message: continue as a separate session. Answered by `Ready`."""

    seed: int


class Reply(Message, frozen=True, kw_only=True):
    """Host → kernel: the tool's answer, or its error."""

    value: Json = None
    error: str | None = None


class Put(Message, frozen=True, kw_only=True):
    """Host → kernel: write a file. Its chunks follow; `last` marks the last one."""

    path: str


class Get(Message, frozen=True, kw_only=True):
    """Host → kernel: send a file of no more than `max_bytes`, in chunks of `chunk_bytes`."""

    path: str
    max_bytes: int
    chunk_bytes: int = CHUNK_BYTES


class List(Message, frozen=True, kw_only=True):
    """Host → kernel: list the regular files of the workspace."""

    max_files: int = MAX_LISTED
    max_bytes: int = MAX_LISTING


class Chunk(Message, frozen=True, kw_only=True):
    """Both ways: a part of a file. `data` is Base64 on the wire."""

    data: bytes
    last: bool


class Stored(Message, frozen=True, kw_only=True):
    """Kernel → host: the file is written."""


class Listing(Message, frozen=True, kw_only=True):
    """Kernel → host: the files of the workspace."""

    files: msgspec.Raw
    """JSON, not decoded yet: see `files_of`."""


class Refused(Message, frozen=True, kw_only=True):
    """Kernel → host: the file cannot be read or written. It carries only an errno(3), because a session's text is not trusted."""

    errno: Annotated[int, msgspec.Meta(ge=1, le=4095)]  # the kernel's MAX_ERRNO


class Ready(Message, frozen=True, kw_only=True):
    """Kernel → host: the session is ready."""


class Failed(Message, frozen=True, kw_only=True):
    """Kernel → host: the session could not be isolated, and did not start."""

    reason: str


class Call(Message, frozen=True, kw_only=True):
    """Kernel → host: call a tool. Numbered from 1."""

    id: int
    name: str
    arguments: msgspec.Raw
    """JSON, not decoded yet: see `arguments_of`."""


class Done(Message, frozen=True, kw_only=True):
    """Kernel → host: cell `id` has ended."""

    id: int
    status: Literal["ok", "error"]
    outputs: msgspec.Raw
    """JSON, not decoded yet: see `outputs_of`."""


class Hello(Message, frozen=True, kw_only=True):
    """Zygote → host: it is warm. Sends the file of its `os` module."""

    os: str


class Forked(Message, frozen=True, kw_only=True):
    """Zygote → host: a first process of a REPL exists, the init before the session. The kernel adds its pid to the message."""

    id: int
    part: Literal["init", "session"]


class Uncopied(Message, frozen=True, kw_only=True):
    """Zygote → host: this copy could not be made, with the reason."""

    id: int
    reason: str


class Signalled(Message, frozen=True, kw_only=True):
    """Zygote → host: the signal has been sent, or its receiver no longer exists."""

    id: int


class Exited(Message, frozen=True, kw_only=True):
    """Zygote → host: a REPL has ended, with everything in it. A negative code is a signal."""

    id: int
    code: int


ToKernel = Open | Run | Settle | Renew | Reply | Put | Get | List | Chunk
FromKernel = Ready | Failed | Call | Done | Chunk | Stored | Listing | Refused
FromZygote = Hello | Forked | Uncopied | Signalled | Exited

_encoder = msgspec.json.Encoder()
_from_kernel: msgspec.json.Decoder[FromKernel] = msgspec.json.Decoder(FromKernel)
_outputs: msgspec.json.Decoder[tuple[Output, ...]] = msgspec.json.Decoder(tuple[Output, ...])
_arguments: msgspec.json.Decoder[dict[str, Json]] = msgspec.json.Decoder(dict[str, Json])
_files: msgspec.json.Decoder[tuple[WorkspaceFile, ...]] = msgspec.json.Decoder(tuple[WorkspaceFile, ...])
_from_zygote: msgspec.json.Decoder[FromZygote] = msgspec.json.Decoder(FromZygote)


def encode(message: ToKernel) -> bytes:
    """Return a whole frame: its length, then JSON. Raises ProtocolError if it is too long."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(body)} bytes is longer than the {MAX_FRAME} that a frame holds")
    return HEADER.pack(len(body)) + body


def encode_reply(reply: Reply) -> bytes:
    """Return the frame of a reply. If the answer cannot be encoded, the reply is an error that says so."""
    try:
        return encode(reply)
    except (ProtocolError, TypeError, OverflowError, UnicodeEncodeError, msgspec.EncodeError) as error:
        return encode(Reply(error=f"the answer cannot be sent: {error}"))


def body_length(header: bytes | bytearray) -> int:
    """Return the length of a frame's body. Raises ProtocolError for an invalid length."""
    (length,) = HEADER.unpack(header)
    if not 2 <= length <= MAX_FRAME:
        raise ProtocolError(f"a frame of {length} bytes; 2 to {MAX_FRAME} are allowed")
    return int(length)


def decode(body: bytes) -> FromKernel:
    """Decode a frame of a kernel. Raises ProtocolError if it is invalid."""
    return decoded(_from_kernel, body, "a frame")


def outputs_of(done: Done, output_chars: int) -> tuple[Output, ...]:
    """Decode the outputs of a cell. Raises ProtocolError if they are invalid, or more than a session sends with the limit `output_chars`.

    Counts quotation marks first, because decoding costs the host memory.
    """
    quotes = bytes(done.outputs).count(b'"')
    if quotes > MAX_QUOTES:
        raise ProtocolError(f"outputs with {quotes:,} quotation marks; {MAX_QUOTES:,} are allowed")
    outputs = decoded(_outputs, done.outputs, "the outputs of a cell")
    if len(outputs) > MAX_OUTPUTS:
        raise ProtocolError(f"{len(outputs)} outputs; {MAX_OUTPUTS} are allowed")
    check_size(outputs, output_chars)
    return outputs


def check_size(outputs: Sequence[Output], output_chars: int) -> None:
    """Raise ProtocolError for more output than a session sends of one cell with the limit `output_chars`."""
    most_text, most = (output_chars // share + _OTHER_CHARS for share in (_TEXT_SHARE, 1))
    text, total = sum(map(_text_chars, outputs)), sum(map(_chars, outputs))
    if text > most_text or total > most:
        raise ProtocolError(
            f"outputs with {total:,} characters, {text:,} of them text; {most:,} and {most_text:,} are allowed"
        )


def _text_chars(output: Output) -> int:
    """Return the number of characters that a model reads of an output; reading a million takes a second."""
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
    """Decode the arguments of a call. Raises ToolError if they are too large, ProtocolError if they are not an object."""
    check_arguments(call.name, memoryview(call.arguments))
    return decoded(_arguments, call.arguments, "the arguments of a call")


def check_arguments(name: str, arguments: bytes | memoryview) -> None:
    """Raise ToolError if the arguments of a call are too large to be decoded, which costs the host time."""
    size = len(arguments)
    if size > MAX_ARGUMENTS:
        raise ToolError(f"{name}: {size:,} bytes of arguments; {MAX_ARGUMENTS:,} are allowed", fault="agent")
    if has_too_many(bytes(arguments), MAX_ARGUMENT_VALUES):
        raise ToolError(
            f"{name}: more than {MAX_ARGUMENT_VALUES:,} values in its arguments: give it fewer", fault="agent"
        )


def files_of(listing: Listing) -> tuple[WorkspaceFile, ...]:
    """Decode a listing. Raises ProtocolError if it is invalid or larger than the host asked for.

    Checks its size first, because decoding costs the host time.
    """
    size = len(memoryview(listing.files))
    if size > MAX_LISTING:
        raise ProtocolError(f"a listing of {size:,} bytes; {MAX_LISTING:,} are allowed")
    files = decoded(_files, listing.files, "a listing of files")
    if len(files) > MAX_LISTED:
        raise ProtocolError(f"a listing of {len(files):,} files; {MAX_LISTED:,} are allowed")
    return files


def decode_zygote(packet: bytes) -> FromZygote:
    """Decode a message of a zygote. Raises ProtocolError if it is invalid."""
    return decoded(_from_zygote, packet, "a message of the zygote")


def decoded(
    decoder: "msgspec.json.Decoder[_Decoded] | msgspec.msgpack.Decoder[_Decoded]",
    data: bytes | msgspec.Raw,
    what: str,
) -> _Decoded:
    """Decode data of a sandbox, or of another machine. Raises ProtocolError if it is not `what`.

    Leaves out the decoder's message: that would quote the data, and the model would read it as lzero's own words.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise ProtocolError(f"not {what}: it has another shape") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProtocolError(f"not {what}: it cannot be decoded") from None
