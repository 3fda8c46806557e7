"""Distinguish errors of one MCP call from the end of the connection, and decide who is at fault.

The SDK raises an error that a server answers, and the end of the connection, as one exception, and servers use the number of the latter
(-32000) for their own errors. `Incoming` is placed before the SDK and renumbers such answers. So CONNECTION_CLOSED always comes from the
SDK itself.
"""

from collections.abc import Callable
from typing import Any, Literal, Self

import anyio
from mcp import MCPError
from mcp.shared.message import SessionMessage
from mcp.types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCRequest,
    JSONRPCResponse,
)

TOO_LARGE = 8_400_001
"""lzero's number for an answer larger than a message may be."""
MALFORMED = 8_400_002
"""lzero's number for an answer that is not JSON-RPC."""
BROKEN_OFF = 8_400_003
"""lzero's number for a failed exchange over HTTP; others go on."""
TOLD_CLOSED = 8_400_004
"""lzero's number for a server's own error with the number CONNECTION_CLOSED."""
TOO_MANY = 8_400_005
"""lzero's number for an answer with more values than a message may have."""
TOO_DEEP = 8_400_006
"""lzero's number for an answer that is nested too deep to be read, or holds too long a number."""
_UNREADABLE_TO_SDK = ("Failed to parse JSON response: ", "Failed to parse SSE message: ")
MAX_UNANSWERED = 100
"""The most requests of a server to which it has not taken an answer. An honest one sends a ping now and then."""
_OF_THE_SERVER = (PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INTERNAL_ERROR, MALFORMED, BROKEN_OFF)
_SAID_BY_SDK = (
    ("SSE stream failed: sent too many values", TOO_MANY),
    ("Failed to parse JSON response: sent too many values", TOO_MANY),
    ("SSE stream failed: sent more than", TOO_LARGE),
    ("SSE stream failed: Server-sent event exceeded", TOO_LARGE),
    ("Failed to parse JSON response: sent more than", TOO_LARGE),
    ("SSE stream ", BROKEN_OFF),
)
"""Prefixes of the SDK's own error messages for an HTTP response that it could not read."""


def fault_of(error: MCPError) -> Literal["agent", "tool"]:
    """Return the party at fault for an error of one call: the agent, unless the code says that the server failed."""
    return "tool" if error.code in _OF_THE_SERVER else "agent"


def is_too_deep(problem: str) -> bool:
    """Return whether this is pydantic's message for JSON that is nested too deep, or holds too long a number."""
    return "recursion limit exceeded" in problem or "number out of range" in problem


def failed_answer(number: int, code: int, message: str) -> SessionMessage:
    """Return an error as the answer to request `number`, whose own answer was lost."""
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=number, error=ErrorData(code=code, message=message)))


class Incoming:
    """A stream of messages for the SDK, in which no error of one call has the number of a closed connection.

    It ends when the server has MAX_UNANSWERED requests without an answer: the SDK keeps each in memory until the server takes the answer.
    """

    def __init__(self, stream: Any, on_message: Callable[[], None], on_end: Callable[[str], None]) -> None:
        """`stream`: the transport's, of messages and exceptions. `on_message`: called for each. `on_end`: called when no more come, with
        what the server did wrong, or ""."""
        self._stream = stream
        self._on_message = on_message
        self._on_end = on_end
        self.unanswered = 0
        """Requests of the server whose answers it has not taken yet; `Outgoing` counts these."""

    async def receive(self) -> SessionMessage | Exception:
        try:
            item: SessionMessage | Exception = await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._on_end("")
            raise
        self._on_message()
        if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCRequest):
            self.unanswered += 1
            if self.unanswered > MAX_UNANSWERED:
                self._on_end(f"sent {self.unanswered} requests without taking an answer")
                raise anyio.EndOfStream
        return _renumbered(item) if isinstance(item, SessionMessage) else item

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Outgoing:
    """The stream of the SDK's messages to the server, which tells `incoming` of each answer that was taken."""

    def __init__(self, stream: Any, incoming: Incoming) -> None:
        self._stream = stream
        self._incoming = incoming

    async def send(self, item: SessionMessage) -> None:
        await self._stream.send(item)
        if isinstance(item.message, JSONRPCResponse | JSONRPCError):
            self._incoming.unanswered -= 1

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _renumbered(item: SessionMessage) -> SessionMessage:
    message = item.message
    if not isinstance(message, JSONRPCError) or message.error.code not in (CONNECTION_CLOSED, PARSE_ERROR):
        return item
    otherwise = TOLD_CLOSED if message.error.code == CONNECTION_CLOSED else PARSE_ERROR
    text = message.error.message
    code = next((code for said, code in _SAID_BY_SDK if text.startswith(said)), otherwise)
    if text.startswith(_UNREADABLE_TO_SDK) and is_too_deep(text):
        code = TOO_DEEP
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=message.id, error=ErrorData(code=code, message=text)))
