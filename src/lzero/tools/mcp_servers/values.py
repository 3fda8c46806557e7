"""Counts the values of a JSON text before it is decoded, however it is cut into pieces."""

import re

MAX_VALUES = 30_000
"""Values of one message of a server. The SDK validates them on the event loop, up to 26 µs each."""
_PIECE_BYTES = 1 << 16
_STRING = re.compile(rb'"[^"\n\r]*+["\n\r]')
"""A text without escaped quotes. No text of JSON spans lines, but a comment of an event stream may hold one quote."""


class ValueCounter:
    """Counts objects, lists, and the commas between values, outside of texts. Keeps nothing of the pieces but how a text goes on."""

    def __init__(self) -> None:
        self.count = 0
        self._open = b""
        """Stands for the beginning of a text that the last piece did not end, with its last character if that is a backslash."""

    def add(self, piece: bytes) -> None:
        text = (self._open + piece).replace(b"\\\\", b"").replace(b'\\"', b"")
        outside, quote, inside = _STRING.sub(b"", text).partition(b'"')
        self.count += sum(map(outside.count, (b"{", b"[", b",")))
        self._open = quote + (b"\\" if inside.endswith(b"\\") else b"")


def has_too_many(text: bytes) -> bool:
    """Whether a message has more than MAX_VALUES values. Looks no further than where it is known."""
    counter = ValueCounter()
    for start in range(0, len(text), _PIECE_BYTES):
        counter.add(text[start : start + _PIECE_BYTES])
        if counter.count > MAX_VALUES:
            return True
    return False
