"""Define the messages between a pool server and its clients: one msgpack message in one WebSocket message, typed and bounded.

A request carries a number of the client's choice, and gets one answer with that number. A cell may call tools in between. The number of the
request that opened a REPL becomes the REPL's number. Both ends decode only these types. An error is the name of a class in a closed table,
with a message.
"""

import math
from typing import Annotated, cast

import msgspec
from msgspec import Meta

from lzero.config.repl import MAX_FILE_MB, MAX_OUTPUT_KB
from lzero.errors import (
    ForkRefused,
    LzeroError,
    PoolFull,
    ProtocolError,
    ReplDied,
    ReplError,
    SandboxError,
    WorkspaceError,
)
from lzero.protocols import ToolStub
from lzero.repl.wire import (
    MAX_ARGUMENTS,
    MAX_FRAME,
    MAX_LISTED,
    MAX_OUTPUTS,
    Message,
    check_arguments,
    check_size,
    decoded,
)
from lzero.types import Execution, Json, WorkspaceFile

VERSION = 2
"""Version of these messages. Both ends send theirs first."""
VERSION_HEADER = "lzero-pool-version"
PATH = "/repls"
MAX_MESSAGE = MAX_FRAME + (1 << 16)
"""The largest message: a session's largest frame with its envelope."""
TRANSFERS = 8
"""Number of files of one client that are transferred at once. At most so many whole files are in the server's memory."""
PART_BYTES = 1 << 18
MAX_TOOLS = 256
"""The most tools of a REPL."""
MAX_REASON = 10_000
"""The most characters of an error."""

Number = Annotated[int, Meta(ge=1, lt=1 << 62)]
MAX_DEADLINE_S = 7 * 86_400.0
Seconds = Annotated[float, Meta(ge=0.0, le=MAX_DEADLINE_S)]


class Open(Message, frozen=True, kw_only=True):
    """Client → server: open a REPL. Answered by Opened."""

    id: Number
    tools: Annotated[tuple[ToolStub, ...], Meta(max_length=MAX_TOOLS)]
    seed: int


class Run(Message, frozen=True, kw_only=True):
    """Client → server: run a cell. Answered by Done, after any number of Calls."""

    id: Number
    repl: Number
    code: str
    deadline_s: Seconds


class Reply(Message, frozen=True, kw_only=True):
    """Client → server: the tool's answer, as JSON, to the Call of request `id`."""

    id: Number
    value: bytes = b"null"
    error: str | None = None


class Fork(Message, frozen=True, kw_only=True):
    """Client → server: copy a REPL. Answered by Opened; the copy's number is the request's."""

    id: Number
    repl: Number
    seed: int


class Put(Message, frozen=True, kw_only=True):
    """Client → server: write a file of `size` bytes. The server asks for each part with More, and answers Stored."""

    id: Number
    repl: Number
    path: str
    size: Annotated[int, Meta(ge=0)]


class Get(Message, frozen=True, kw_only=True):
    """Client → server: read a file. The server sends it in Parts; the client asks for each further one with More."""

    id: Number
    repl: Number
    path: str


class Files(Message, frozen=True, kw_only=True):
    """Client → server: list the workspace. Answered by Listing."""

    id: Number
    repl: Number


class Part(Message, frozen=True, kw_only=True):
    """Both ways: the next part of the file of request `id`: `PART_BYTES` bytes, fewer in the last part."""

    id: Number
    data: bytes
    last: bool


class More(Message, frozen=True, kw_only=True):
    """Both ways: ask for the next part. So files neither fill a buffer nor delay other messages."""

    id: Number


class Close(Message, frozen=True, kw_only=True):
    """Client → server: end a REPL, even while it is busy. Answered by Closed."""

    id: Number
    repl: Number


class Beat(Message, frozen=True, kw_only=True):
    """Client → server: a heartbeat. Answered by Load."""


class Load(Message, frozen=True, kw_only=True):
    """Server → client: the number of REPLs of all clients together, and the maximum."""

    repls: int
    max_repls: int


class Welcome(Message, frozen=True, kw_only=True):
    """Server → client, its first message.

    `lease_s`: a client that is silent for so long is taken for dead. `file_bytes`: the largest file that it transfers. `lifetime_s`:
    seconds after which it ends a REPL; None: never. `facts`: what isolates its REPLs, as JSON.
    """

    lease_s: Seconds
    file_bytes: Annotated[int, Meta(ge=0, le=MAX_FILE_MB << 20)]
    lifetime_s: float | None = None
    facts: bytes
    load: Load


class Opened(Message, frozen=True, kw_only=True):
    id: Number
    load: Load


class Call(Message, frozen=True, kw_only=True):
    """Server → client: the cell of request `id` calls a tool, with arguments as JSON. One call at a time."""

    id: Number
    name: str
    arguments: bytes


class Done(Message, frozen=True, kw_only=True):
    id: Number
    execution: Execution


class Stored(Message, frozen=True, kw_only=True):
    id: Number


class Listing(Message, frozen=True, kw_only=True):
    id: Number
    files: Annotated[tuple[WorkspaceFile, ...], Meta(max_length=MAX_LISTED)]


class Closed(Message, frozen=True, kw_only=True):
    id: Number
    load: Load


class Failed(Message, frozen=True, kw_only=True):
    """Server → client: request `id` failed with this error of `_ERRORS`."""

    id: Number
    error: str
    message: str
    load: Load


OfRepl = Run | Fork | Put | Get | Files
"""Requests to an open REPL."""
InBetween = Reply | Part | More
"""Messages of a client in the middle of one of its requests."""
FromClient = Open | OfRepl | InBetween | Close | Beat
Response = Opened | Call | Done | Stored | Listing | Part | More | Closed | Failed
"""Messages of a server about a request."""
FromServer = Welcome | Load | Response


_ERRORS: dict[str, type[LzeroError]] = {
    error.__name__: error
    for error in (PoolFull, ForkRefused, ReplDied, SandboxError, ProtocolError, ReplError, WorkspaceError)
}

_encoder = msgspec.msgpack.Encoder()
_from_client: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
_from_server: msgspec.msgpack.Decoder[FromServer] = msgspec.msgpack.Decoder(FromServer)
_json: msgspec.json.Decoder[msgspec.Raw] = msgspec.json.Decoder(msgspec.Raw)
_object: msgspec.json.Decoder[dict[str, Json]] = msgspec.json.Decoder(dict[str, Json])
UNSENDABLE = (ProtocolError, TypeError, ValueError, OverflowError, RecursionError, msgspec.EncodeError)
"""Errors when a value that JSON cannot hold is encoded or decoded."""


def encode(message: FromClient | FromServer) -> bytes:
    """Encode a message. Raises ProtocolError if it is too long, or contains a number that does not fit."""
    try:
        data = _encoder.encode(message)
    except (OverflowError, UnicodeEncodeError) as error:
        raise ProtocolError(f"a message that cannot be sent: {error}") from None
    if len(data) > MAX_MESSAGE:
        raise ProtocolError(f"a message of {len(data):,} bytes is longer than the {MAX_MESSAGE:,} that may be sent")
    return data


def decode_client(data: bytes) -> FromClient:
    """Decode a message of a client. Raises ProtocolError if it is invalid."""
    return decoded(_from_client, data, "a message of a client")


def decode_server(data: bytes) -> FromServer:
    """Decode a message of a server. Raises ProtocolError if it is invalid."""
    return decoded(_from_server, data, "a message of a server")


def run(number: int, repl: int, code: str, deadline_s: float) -> Run:
    """Return the request for a cell, with any text as its code. Raises ProtocolError if the code is too long for any session."""
    code = code.encode("utf-8", "replace").decode()
    if len(code) > MAX_FRAME:
        raise ProtocolError(f"{len(code):,} characters of code; {MAX_FRAME:,} may be sent")
    return Run(id=number, repl=repl, code=code, deadline_s=min(deadline_s, MAX_DEADLINE_S))


def dump(value: Json) -> bytes:
    """Encode a value as JSON. Raises one of `UNSENDABLE`."""
    data = msgspec.json.encode(value)
    if len(data) > MAX_FRAME:
        raise ProtocolError(f"{len(data):,} bytes; {MAX_FRAME:,} may be sent")
    return data


def value_of(reply: Reply) -> Json:
    """Check the tool's answer, and return its JSON undecoded, as a `msgspec.Raw`. Raises ProtocolError if it is not JSON.

    The session gets the JSON unchanged; decoded, eight megabytes of it would take hundreds.
    """
    value = decoded(_json, reply.value, "the answer of a tool")
    try:
        reply.value.decode()  # a Raw is not decoded, so its text may still be no UTF-8
    except UnicodeDecodeError:
        raise ProtocolError("not the answer of a tool: it is no UTF-8") from None
    return cast("Json", value)


def arguments_of(call: Call) -> dict[str, Json]:
    """Decode the arguments of a call. Raises ToolError if they are too large, ProtocolError if they are not an object."""
    check_arguments(call.name, call.arguments)
    return object_of(call.arguments)


def object_of(data: bytes) -> dict[str, Json]:
    """Decode an object of JSON, such as the facts of a pool. Raises ProtocolError if it is too large, or not an object."""
    if len(data) > MAX_ARGUMENTS:
        raise ProtocolError(f"an object of {len(data):,} bytes of JSON; {MAX_ARGUMENTS:,} are allowed")
    return decoded(_object, data, "an object of JSON")


def check_execution(execution: Execution) -> None:
    """Raise ProtocolError for more than a server can have of one cell: more output than of any limit, a longer reason, no duration."""
    if len(execution.outputs) > MAX_OUTPUTS:
        raise ProtocolError(f"{len(execution.outputs):,} outputs; {MAX_OUTPUTS} are allowed")
    check_size(execution.outputs, 1000 * MAX_OUTPUT_KB)
    if len(execution.reason) > MAX_REASON:
        raise ProtocolError(f"a reason of {len(execution.reason):,} characters; {MAX_REASON:,} are allowed")
    if not 0.0 <= execution.duration_s < math.inf:
        raise ProtocolError(f"a cell of {execution.duration_s} s")


def failure(number: int, error: LzeroError, load: Load) -> Failed:
    """Return the failure of a request, named after the nearest class in the table."""
    name = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS), ReplError.__name__)
    message = str(error)[:MAX_REASON].encode("utf-8", "replace").decode()
    return Failed(id=number, error=name, message=message, load=load)


def error_of(failed: Failed) -> LzeroError:
    return _ERRORS.get(failed.error, ReplError)(failed.message[:MAX_REASON])
