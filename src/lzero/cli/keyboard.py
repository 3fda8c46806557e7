"""Read lines of standard input without blocking the event loop."""

import asyncio
import codecs
import os
import threading
from contextlib import suppress


class Keyboard:
    """Reads lines in a separate thread, directly from the descriptor. A thread that waits inside `sys.stdin` would hold a lock that the
    interpreter needs to end."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._ended = False
        threading.Thread(target=self._read, daemon=True, name="keyboard").start()

    async def line(self) -> str | None:
        """Return the next line, without its end; None when the input has ended."""
        if self._ended:
            return None
        line = await self._lines.get()
        self._ended = line is None
        return line

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        pending = ""
        with suppress(RuntimeError):  # the event loop has ended
            while data := self._bytes():
                *lines, pending = (pending + decoder.decode(data)).split("\n")
                for line in lines:
                    self._put(line.removesuffix("\r"))
            if pending:
                self._put(pending)
            self._put(None)

    def _bytes(self) -> bytes:
        try:
            return os.read(self._descriptor, 65536)
        except OSError:  # closed, or its terminal is gone
            return b""

    def _put(self, line: str | None) -> None:
        self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
