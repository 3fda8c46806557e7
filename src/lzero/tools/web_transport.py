"""Connect httpx2 and httpcore2: a transport over a given connection pool, which also tracks how far a request has been sent.

A page may come in chunks of one byte, behind a million interim responses, or packed into members that unpack to nothing. The libraries
handle all that they have read without a stop, so they read little at once here (`Paced`), and rest in between.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import httpcore2
import httpx2

from lzero.tools.retry import ServiceError, Unanswered
from lzero.turns import PART_BYTES

MAX_HEADERS = 500
"""Maximum headers of an answer; httpx2 bounds their bytes."""


_BRIEF_S = 1e-3
"""Seconds of handling one part that need no rest."""
_REST, _LONGEST_S = 4.0, 0.1
"""Rest after a part, in multiples of the time that handling it took, and at most so many seconds."""


class Paced(httpcore2.AsyncNetworkBackend):
    """Connects as another backend does. Handling what comes then takes a fifth of the event loop at most."""

    def __init__(self, backend: httpcore2.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _PacedStream(await self._backend.connect_tcp(host, port, timeout, local_address, socket_options))


class _PacedStream(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self._read_at = time.monotonic()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        handled_s = time.monotonic() - self._read_at
        if handled_s > _BRIEF_S:
            await asyncio.sleep(min(_REST * handled_s, _LONGEST_S))
        try:
            return await self._stream.read(min(max_bytes, PART_BYTES), timeout)
        finally:
            self._read_at = time.monotonic()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)
        self._read_at = time.monotonic()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return _PacedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


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
