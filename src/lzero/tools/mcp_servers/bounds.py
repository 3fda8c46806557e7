"""Bound what an MCP server writes: the length of a line, and the number of values of a message before it is decoded.

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
_STRING = re.compile(rb'"[^"\n\r]*+["\n\r]')
"""A JSON string without escaped quotes. It ends at a line break, as a comment of an event stream may hold a single quote."""
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


class ValueCounter:
    """Counts objects, lists and commas outside of strings. It keeps no text, only whether a string is still open."""

    def __init__(self) -> None:
        self.count = 0
        self._open = b""
        """A quote if the last piece ended inside a string, and a backslash if that was its last character."""

    def add(self, piece: bytes) -> None:
        text = (self._open + piece).replace(b"\\\\", b"").replace(b'\\"', b"")
        outside, quote, inside = _STRING.sub(b"", text).partition(b'"')
        self.count += sum(map(outside.count, (b"{", b"[", b",")))
        self._open = quote + (b"\\" if inside.endswith(b"\\") else b"")


def has_too_many(text: bytes) -> bool:
    """Return whether a message has more than MAX_VALUES values. Stops counting there."""
    counter = ValueCounter()
    for start in range(0, len(text), _PIECE_BYTES):
        counter.add(text[start : start + _PIECE_BYTES])
        if counter.count > MAX_VALUES:
            return True
    return False
