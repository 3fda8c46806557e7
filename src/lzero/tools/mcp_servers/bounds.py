"""Bound the length of the lines that an MCP server writes. `lzero.json_bounds` counts the values of a message before it is decoded.

An unreadable answer fails only its own call, because the call's number is at the beginning or at the end of the line.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

MAX_MESSAGE = 8 * 1024 * 1024
"""The most bytes of one message of a server."""
MAX_VALUES = 30_000
"""Maximum values of one message of a server. The SDK validates them on the event loop, up to 26 µs each."""
MAX_SKIPPED = 8 * MAX_MESSAGE
"""The most bytes of one line that are read and dropped; a server that exceeds it writes endlessly."""
_PIECE_BYTES = 1 << 16
_ENDS = 200
"""Bytes that are kept of the beginning and of the end of an overlong line."""
_PIECES = re.compile(rb"[^\n]*\n|[^\n]+")
_VERSION = rb'"jsonrpc"\s*:\s*"2\.0"'
_NUMBER = rb'"id"\s*:\s*(\d{1,18})'
_FIRST = re.compile(rb"\s*\{\s*(?:" + _VERSION + rb"\s*,\s*)?" + _NUMBER + rb"\s*,")
_LAST = re.compile(_NUMBER + rb"\s*(?:,\s*" + _VERSION + rb"\s*)?\}\s*$")
"""The last brace of a line closes the message itself, so text directly before it belongs to no inner part."""


@dataclass(frozen=True)
class Line:
    """One line, or both ends of one that is longer than MAX_MESSAGE (`is_cut`)."""

    text: bytes
    is_cut: bool = False

    @property
    def answers(self) -> int | None:
        """The number of the call that the line answers, as far as its ends show; None if unknown."""
        found = _FIRST.match(self.text) or _LAST.search(self.text[-_ENDS:])
        return int(found[1]) if found else None


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[Line]:
    """Yield the lines of a stream until it ends. Raises ValueError for a line of more than MAX_SKIPPED bytes."""
    kept, skipped = bytearray(), 0
    while chunk := await stream.read(_PIECE_BYTES):
        for piece in _PIECES.findall(chunk):
            kept += piece
            if len(kept) > MAX_MESSAGE or (skipped and len(kept) > 4 * _ENDS):
                skipped += len(kept) - 2 * _ENDS
                kept = kept[:_ENDS] + kept[-_ENDS:]
            if skipped > MAX_SKIPPED:
                raise ValueError(f"a line of more than {MAX_SKIPPED:,} bytes")
            if piece.endswith(b"\n"):
                yield Line(bytes(kept), is_cut=bool(skipped))
                kept, skipped = bytearray(), 0
    if kept:
        yield Line(bytes(kept), is_cut=bool(skipped))
