"""An HTTP server for tests, on loopback, that says exactly what a test wants said: also what is slow, broken or too much."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class WebServer:
    host: str
    """As an allow list has it: "127.0.0.1:port"."""
    requests: list[Request] = field(default_factory=list)
    server_names: list[str] = field(default_factory=list)
    """What clients asked for by TLS (SNI)."""

    @property
    def url(self) -> str:
        return f"http://{self.host}"


def response(body: bytes = b"", *, status: int = 200, **headers: str) -> bytes:
    """A whole response; `content_type="text/html"` is a header."""
    fields = {"Content-Length": str(len(body)), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def json_response(value: object, *, status: int = 200, **headers: str) -> bytes:
    return response(msgspec.json.encode(value), status=status, content_type="application/json", **headers)


def pages(by_target: dict[str, bytes]) -> Answer:
    """Whole responses by target; 404 for the others."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(by_target.get(request.target, response(b"no such page", status=404)))

    return answer


@asynccontextmanager
async def serving(answer: Answer, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[WebServer]:
    web = WebServer(host="")
    open_ones: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones[writer] = asyncio.current_task()
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            method, target, _ = (await reader.readline()).decode().split(" ", 2)
            headers = {}
            while line := (await reader.readline()).decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Request(method=method, target=target, headers=headers, body=body)
            web.requests.append(request)
            await answer(request, writer)
            await writer.drain()
        writer.close()

    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: web.server_names.append(name or "")
    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    web.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield web
    finally:
        server.close()
        for writer, task in open_ones.items():
            assert task is not None
            task.cancel()
            await asyncio.wait([task])
            writer.transport.abort()
