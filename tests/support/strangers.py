"""Helpers for tests of hostile servers and clients."""

import asyncio
from contextlib import suppress

from pool_servers import TOKEN

from lzero.types import Json

PATIENCE_S = 30.0


async def load(url: str) -> bool:
    """Return whether the server still answers a client with the token, and holds no REPL."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
    writer.write(f"GET /load HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    said = await until_ended(reader)
    writer.transport.abort()
    return said.startswith(b"HTTP/1.1 200 ") and b'"repls":0' in said


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def until_ended(reader: asyncio.StreamReader) -> bytes:
    """Return all data until the other end closes or resets the connection."""
    said = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_S):
            while piece := await reader.read(1 << 16):
                said += piece
    return said


async def nobody(name: str, arguments: dict[str, Json]) -> Json:
    return None
