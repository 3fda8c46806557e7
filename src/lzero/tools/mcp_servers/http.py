"""Connect to an MCP server at a URL: the HTTP client below the SDK's streamable HTTP, which bounds responses.

With the SDK alone, a failed exchange ends the connection, and every other call with it. Here it becomes an error that answers its own
request, and the connection is `stale`: running calls go on, and the next one makes a new connection.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2
import msgspec
from mcp.client.streamable_http import streamable_http_client

from lzero.json_bounds import EventCounter, ValueCounter
from lzero.json_repair import Repair
from lzero.tools.mcp_servers.bounds import MAX_MESSAGE, MAX_VALUES
from lzero.tools.mcp_servers.errors import BROKEN_OFF, TOO_LARGE
from lzero.tools.shapes import one_line
from lzero.turns import in_turns

_CONNECT_S = 10.0
_REASON_CHARS = 200
_CANCEL_S = 10.0
"""Seconds that the server has to accept the cancellation of a call."""
_CANCELLED = "notifications/cancelled"
_SESSION = "mcp-session-id"


class TooMuch(httpx2.SSEError, httpx2.StreamError):
    """A response that is not read to its end, as an exception that the SDK catches for events and for bodies."""


class BrokenOff(httpx2.StreamError):
    """A response that ended early."""


class _Sent(msgspec.Struct):
    """The fields of an outgoing message that are read."""

    method: str = ""
    id: Any = None


class BoundedClient(httpx2.AsyncClient):
    """An HTTP client in which a body ends with an error after MAX_MESSAGE bytes or MAX_VALUES values. `problem`: the server's last
    refusal."""

    problem = ""
    stale = False
    """Whether an exchange failed, or the server has dropped the session."""

    def __init__(self, headers: dict[str, str], read_s: float) -> None:
        """`read_s`: seconds that a response may take between two pieces."""
        super().__init__(
            headers={**headers, "Accept-Encoding": "identity"},
            timeout=httpx2.Timeout(_CONNECT_S, read=read_s),
            event_hooks={"response": [self._bound]},
        )
        self._cancelling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def streams(self, url: str) -> AsyncIterator[Any]:
        """Yield the SDK's two streams of messages over this client, which is closed after the block."""
        async with self, streamable_http_client(url, http_client=self, max_sse_event_size=MAX_MESSAGE) as streams:
            yield streams

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request. A POST that fails gets a JSON-RPC error as its response."""
        sent = _sent(request)
        if sent.method == _CANCELLED:  # the SDK would send nothing else until the server has answered
            task = asyncio.create_task(self._send_cancelled(request, options))
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)
            return httpx2.Response(202, request=request)
        try:
            return await super().send(request, **options)
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            if sent.id is None:
                raise
            self.stale = self.stale or isinstance(error, httpx2.HTTPError)
            code = TOO_LARGE if isinstance(error, TooMuch) else BROKEN_OFF
            told = {"code": code, "message": one_line(str(error), 300) or type(error).__name__}
            body = {"jsonrpc": "2.0", "id": sent.id, "error": told}
            return httpx2.Response(502, json=body, request=request)

    async def aclose(self) -> None:
        for task in self._cancelling:
            task.cancel()
        await super().aclose()

    async def _send_cancelled(self, request: httpx2.Request, options: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(_CANCEL_S):
                response = await super().send(request, **options)
                await response.aclose()
        except (TimeoutError, httpx2.HTTPError, httpx2.StreamError):
            pass  # the server may finish the call; its result is not used

    async def _bound(self, response: httpx2.Response) -> None:
        if response.status_code >= 400:
            self.problem = f"HTTP {response.status_code} {response.reason_phrase[:_REASON_CHARS]}".strip()
        if response.status_code == 404 and _SESSION in response.request.headers:
            self.stale = True
        if response.headers.get("content-encoding", "identity") != "identity":
            raise BrokenOff("compressed what it was asked to send as it is")
        response.encoding = "utf-8"  # the encoding in which values are counted, whatever the header says
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        response.stream = _Bounded(response.stream, is_events=media_type == "text/event-stream")


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, *, is_events: bool) -> None:
        """`is_events`: a stream of events, each of which is a message."""
        self._stream = stream
        self._is_events = is_events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        values = EventCounter() if self._is_events else ValueCounter()
        characters = Repair()
        try:
            async with aclosing(in_turns(self._stream)) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > MAX_MESSAGE:
                        raise TooMuch(f"sent more than {MAX_MESSAGE:,} bytes")
                    if values.add(chunk) > MAX_VALUES:
                        raise TooMuch(f"sent too many values, more than {MAX_VALUES:,}")
                    yield characters.add(chunk)
            yield characters.add(b"", last=True)
        except TooMuch:
            raise
        except httpx2.HTTPError as error:  # which would end the connection
            raise BrokenOff(f"broke off: {error}") from error

    async def aclose(self) -> None:
        await self._stream.aclose()


def _sent(request: httpx2.Request) -> _Sent:
    if request.method != "POST":
        return _Sent()
    try:
        return msgspec.json.decode(request.content, type=_Sent)
    except (msgspec.DecodeError, httpx2.StreamError):  # nothing that the SDK sends as a message
        return _Sent()
