"""Count the values of JSON before it is decoded: a few bytes of it may become many of memory (`{},` takes 64)."""

import re

_PIECE_BYTES = 1 << 16
_EVENT_END = re.compile(rb"(?>\r\n|\r|\n){2}")
_STRING = re.compile(rb'"[^"\n\r]*+["\n\r]')
"""A JSON string without escaped quotes. It ends at a line break, as a comment of an event stream may hold a single quote."""


class ValueCounter:
    """Counts objects, lists and commas outside of strings. It keeps no text, only whether a string is still open."""

    def __init__(self) -> None:
        self.count = 0
        self._open = b""
        """A quote if the last piece ended inside a string, and a backslash if that was its last character."""

    def add(self, piece: bytes) -> int:
        """Count the values of the next piece of a text, and return their number up to here."""
        text = (self._open + piece).replace(b"\\\\", b"").replace(b'\\"', b"")
        outside, quote, inside = _STRING.sub(b"", text).partition(b'"')
        self.count += _marks(outside)
        self._open = quote + (b"\\" if inside.endswith(b"\\") else b"")
        return self.count


class EventCounter:
    """Counts the values of each event in a stream of server-sent events (WHATWG HTML, 9.2)."""

    def __init__(self) -> None:
        self._values = ValueCounter()
        self._end = b""

    def add(self, piece: bytes) -> int:
        """Return the number of values in the largest event that has a part in the next piece of the stream."""
        most, piece = 0, self._end + piece
        for number, part in enumerate(_EVENT_END.split(piece)):
            self._values = ValueCounter() if number else self._values
            most = max(most, self._values.add(part))
        self._end = piece[len(piece.rstrip(b"\r\n")) :][-2:]
        return most


def has_too_many(text: bytes, most: int) -> bool:
    """Return whether a text of JSON in UTF-8 has more than `most` values. Stops counting there."""
    if _marks(text) <= most:  # strings included: at least as many as `ValueCounter` finds
        return False
    counter = ValueCounter()
    return any(counter.add(text[start : start + _PIECE_BYTES]) > most for start in range(0, len(text), _PIECE_BYTES))


def _marks(text: bytes) -> int:
    return sum(map(text.count, (b"{", b"[", b",")))
