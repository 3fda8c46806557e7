"""Count the values of JSON before it is decoded: a few bytes of it may become many of memory (`{},` takes 64)."""

import re

_PIECE_BYTES = 1 << 16
_STRING = re.compile(rb'"[^"\n\r]*+["\n\r]')
"""A JSON string without escaped quotes. It ends at a line break, as a comment of an event stream may hold a single quote."""


class ValueCounter:
    """Counts objects, lists and commas outside of strings. It keeps no text, only whether a string is still open."""

    def __init__(self) -> None:
        self.count = 0
        self._open = b""
        """A quote if the last piece ended inside a string, and a backslash if that was its last character."""

    def add(self, piece: bytes) -> None:
        """Count the values of the next piece of a text."""
        text = (self._open + piece).replace(b"\\\\", b"").replace(b'\\"', b"")
        outside, quote, inside = _STRING.sub(b"", text).partition(b'"')
        self.count += _marks(outside)
        self._open = quote + (b"\\" if inside.endswith(b"\\") else b"")


def has_too_many(text: bytes, most: int) -> bool:
    """Return whether a text of JSON in UTF-8 has more than `most` values. Stops counting there."""
    if _marks(text) <= most:  # strings included: at least as many as `ValueCounter` finds
        return False
    counter = ValueCounter()
    for start in range(0, len(text), _PIECE_BYTES):
        counter.add(text[start : start + _PIECE_BYTES])
        if counter.count > most:
            return True
    return False


def _marks(text: bytes) -> int:
    return sum(map(text.count, (b"{", b"[", b",")))
