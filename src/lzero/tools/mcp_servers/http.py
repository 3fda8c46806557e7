"""An MCP server at a URL: the client under the SDK's streamable HTTP, which bounds what a response may hold."""

from collections.abc import AsyncIterator

import httpx2

from lzero.tools.mcp_servers.words import MAX_MESSAGE

_CONNECT_S = 10.0
_REASON_CHARS = 200


class TooMuch(httpx2.StreamError):
    """A response that nobody will read to its end."""


class BoundedClient(httpx2.AsyncClient):
    """HTTP as it is, but that a body ends with an error after `MAX_MESSAGE` bytes. `problem`: the server's last refusal."""

    problem = ""

    def __init__(self, headers: dict[str, str], read_s: float) -> None:
        """`read_s`: seconds that a response may take between two pieces."""
        super().__init__(
            headers={**headers, "Accept-Encoding": "identity"},
            timeout=httpx2.Timeout(_CONNECT_S, read=read_s),
            event_hooks={"response": [self._bound]},
        )

    async def _bound(self, response: httpx2.Response) -> None:
        if response.status_code >= 400:
            self.problem = f"HTTP {response.status_code} {response.reason_phrase[:_REASON_CHARS]}".strip()
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TooMuch("compressed what it was asked to send as it is")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_MESSAGE:
                raise TooMuch(f"sent more than {MAX_MESSAGE:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
