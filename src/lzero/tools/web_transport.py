"""Connect httpx2 and httpcore2: a transport over a given connection pool, which also tracks how far a request has been sent."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import httpcore2
import httpx2

from lzero.tools.retry import ServiceError, Unanswered

MAX_HEADERS = 500
"""Maximum headers of an answer; httpx2 bounds their bytes."""


class Progress:
    """Tracks how far a request has been sent, by httpcore2's trace events."""

    def __init__(self) -> None:
        self.is_sent = False
        """Whether the whole request was sent."""
        self._is_own = False
        """Whether the request being sent is the caller's, and not the CONNECT that opens a tunnel through a proxy."""

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Record an event; httpx2 takes this function as the extension `trace`."""
        if event.endswith(".send_request_headers.started"):
            self._is_own = info["request"].method != b"CONNECT"
        elif event.endswith(".send_request_body.complete"):
            self.is_sent = self._is_own

    def late(self, message: str) -> ServiceError:
        """Return the error for a request that ran out of time: Unanswered if all of it was sent."""
        return Unanswered(message) if self.is_sent else ServiceError(message)


class PoolTransport(httpx2.AsyncBaseTransport):
    """httpx2 over a given connection pool, which httpx2 itself has no public way to accept."""

    def __init__(self, pool: httpcore2.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        url = request.url
        response = await self._pool.handle_async_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        if len(response.headers) > MAX_HEADERS:  # before each is looked at, by name, for cookies, …
            await response.aclose()
            raise ServiceError(f"{url.host} sent {len(response.headers):,} headers", permanent=True)
        return httpx2.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(self._response.aiter_stream()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()
