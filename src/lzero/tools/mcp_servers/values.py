"""Count the values of a JSON text before it is decoded. The text may come in pieces."""

import re

MAX_VALUES = 30_000
"""Maximum values of one message of a server. The SDK validates them on the event loop, up to 26 µs each."""
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
