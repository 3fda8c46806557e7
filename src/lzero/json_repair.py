r"""Repair the texts of JSON that a server cut in the middle of a character.

Bytes that are no UTF-8, and halves of a pair of escapes, become U+FFFD: repaired(rb'"a\ud83d"') == rb'"a\ufffd"'
"""

import codecs
import re

_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF = re.compile(rb"%b(?!%b)|(?<!%b)%b" % (_HIGH, _LOW, _HIGH, _LOW))
_OPEN = re.compile(
    rb"\\(?:u(?:[dD](?:[89abAB](?:[0-9a-fA-F](?:[0-9a-fA-F](?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?)?)?"
    rb"|[c-fC-F][0-9a-fA-F]?)?)?)?\Z"
)
"""The beginning of an escape, or of a pair, at the end of a piece."""
_OPEN_BYTES = 11
_BACKSLASH, _PLACEHOLDER = rb"\\", b"\0\0"
"""An escaped backslash, and its temporary replacement, which no JSON contains."""


class Repair:
    """Repairs a text piece by piece, in a time linear in its length. Faults outside of strings stay: the text is then no JSON."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = b""

    def add(self, piece: bytes, *, last: bool = False) -> bytes:
        """Return the next part of the text. The beginning of an escape at the end of a piece waits for the next one."""
        decoded = self._decoder.decode(piece, final=last).encode().replace(b"\0", b"\1")  # neither is in any JSON
        text = (self._open + decoded).replace(_BACKSLASH, _PLACEHOLDER)
        found = None if last else _OPEN.search(text, max(0, len(text) - _OPEN_BYTES))
        end = found.start() if found else len(text)
        self._open = text[end:]
        return _HALF.sub(rb"\\ufffd", text[:end]).replace(_PLACEHOLDER, _BACKSLASH)


def repaired(text: bytes) -> bytes:
    """Return the repaired text of JSON."""
    return Repair().add(text, last=True)
