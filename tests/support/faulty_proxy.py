"""A proxy before a server on a Unix socket, with a fault."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

Fault = Literal["none", "delay", "cut", "500", "garbage", "nobody"]
DELAY_S = 4.0
CUT_BYTES = 30
"""Bytes of a response that arrive before it is cut."""


class FaultyProxy:
    """Passes on requests, one a connection. Those whose route matches `routes` meet the fault."""

    def __init__(self, socket: Path) -> None:
        self.fault: Fault = "none"
        self.routes = ".*"
        self._socket = socket
        self._answering: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def address(self) -> AsyncIterator[str]:
        """Serve, and yield the proxy's URL."""
        async with await asyncio.start_server(self._answer, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await asyncio.gather(*self._answering, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b""
            is_met = re.search(self.routes, head.split()[1].decode()) is not None
            await self._respond(head, body, writer, self.fault if is_met else "none")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _respond(self, head: bytes, body: bytes, writer: asyncio.StreamWriter, fault: Fault) -> None:
        if fault == "nobody":
            return
        if fault == "500":
            writer.write(b"HTTP/1.1 500 Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        if fault == "garbage":
            writer.write(b"\x00\xff no HTTP at all\r\n\r\n")
            return
        response = await self._passed_on(head, body)
        if fault == "delay":
            await asyncio.sleep(DELAY_S)
        writer.write(response[:CUT_BYTES] if fault == "cut" else response)
        await writer.drain()

    async def _passed_on(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            first, _, rest = re.sub(rb"(?i)connection: [^\r]*\r\n", b"", head).partition(b"\r\n")
            writer.write(first + b"\r\nConnection: close\r\n" + rest + body)
            return await reader.read()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
