"""A JSON array of objects, read one element at a time, so the file may be larger than the memory.

[{"question": …}, …]                 HotpotQA, 2WikiMultihopQA
{"Version": 1, "Data": [{…}, …]}     TriviaQA: an array below one of WRAPPERS
{"problem": …}                       MATH: one row

Several of the first and the last kind may follow one another.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from lzero.data.formats import base
from lzero.data.formats.base import BadFile, BadRow, Found, opened, too_large
from lzero.data.formats.json_lines import decode

CHUNK_BYTES = 1 << 20
WRAPPERS = (b"data", b"Data", b"rows")
"""Keys of an object that is not a row itself, and holds the array of rows."""
_KEY_BYTES = max(map(len, WRAPPERS)) + 2
"""Bytes of the last chunk that are kept, because one of these keys may begin there."""
_OUTSIDE, _IN_STRING = re.compile(rb'["{}\[\]]'), re.compile(rb'["\\]')
_BETWEEN = re.compile(rb"[^\s,\xef\xbb\xbf]")
"""What stands between two rows besides white space, commas, and the byte order mark of the file."""
_RULE = "each element of the array is one JSON object"


def read(path: Path) -> Iterator[Found]:
    """Yield the rows. Raises BadRow; BadFile for a text that ends too early, or closes what is not open."""
    splitter = _Splitter()
    with opened(path) as stream:
        number = 0
        while chunk := stream.read(CHUNK_BYTES):
            for text in splitter.feed(chunk):
                number += 1
                yield number, len(text), decode(number, text, _RULE)
    splitter.finish()


class _Splitter:
    """Finds the rows in the chunks of a text, by its brackets and strings alone."""

    def __init__(self) -> None:
        self._held = b""
        """Text from the beginning of the row that is open."""
        self._place = 0
        """Where in `_held` the search goes on; a backslash may put it one byte behind the end."""
        self._start = -1
        """Where in `_held` the open row begins; -1: none is open."""
        self._open_brackets: list[bytes] = []
        self._row_depth = 1
        """Number of open brackets inside of a row; 2 in an array, 3 in an array of an object, 0 after that array: no row may follow."""
        self._wrapper = b""
        """The key of the array of rows of an object."""
        self._in_string = False
        self._string = 0
        """Where in `_held` the last string begins; negative: before it, so it is longer than _KEY_BYTES."""
        self._key = b""
        """The last string directly inside of the outermost object."""
        self._rows = 0
        self._brackets = 0
        """Number of brackets that were opened in the row that is open."""
        self._is_over = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the texts of the rows that end in this chunk. Raises BadRow, BadFile."""
        self._held += chunk
        while found := (form := self._form()).search(self._held, self._place):
            self._place = found.end()
            if self._is_over or (form is _BETWEEN and found.group() not in b"{}[]"):
                raise self._misplaced(found.start())
            if row := self._take(found.group(), found.start()):
                self._rows += 1
                yield row
        self._place = max(self._place, len(self._held))
        done = self._start if self._start >= 0 else max(0, min(self._place, len(self._held)) - _KEY_BYTES)
        self._held, self._place = self._held[done:], self._place - done
        self._start, self._string = min(self._start, 0), self._string - done
        if len(self._held) > base.MAX_ROW_BYTES:
            raise too_large(self._rows + 1)

    def finish(self) -> None:
        """Raise BadFile if the text is not whole."""
        if self._open_brackets and not self._is_over:
            raise BadFile("is not whole: its JSON ends inside of a value. Fetch or copy it again")

    def _misplaced(self, at: int) -> BadRow | BadFile:
        text = self._held[at : at + 20].decode(errors="replace")
        if self._is_over:
            return BadFile(f"goes on with {text!r} after the object of its rows: write that to a file of its own")
        return BadRow(self._rows + 1, f"begins with {text!r}: {_RULE}")

    def _form(self) -> re.Pattern[bytes]:
        """Return what to search next."""
        if self._in_string:
            return _IN_STRING
        if self._is_over or (self._start < 0 and len(self._open_brackets) == self._row_depth - 1):
            return _BETWEEN
        return _OUTSIDE

    def _take(self, mark: bytes, at: int) -> bytes:
        """Return the row that ends with this mark; b"" if none does."""
        if mark == b"\\":
            self._place += 1
        elif mark == b'"':
            if self._in_string and len(self._open_brackets) == 1:
                self._key = self._held[self._string + 1 : at] if self._string >= 0 else b""
            self._in_string, self._string = not self._in_string, at
        elif mark in b"{[":
            self._open(mark, at)
        else:
            return self._close(mark)
        return b""

    def _open(self, mark: bytes, at: int) -> None:
        self._open_brackets.append(mark)
        self._brackets += 1
        if self._start >= 0 and self._brackets > base.MAX_ROW_VALUES:
            raise base.too_many(self._rows + 1)
        depth = len(self._open_brackets)
        if mark == b"[" and depth == 1:
            self._row_depth = 2
        elif mark == b"[" and depth == 2 and self._row_depth in (0, 1) and self._key in WRAPPERS:
            if self._wrapper:
                one, other = self._wrapper.decode(), self._key.decode()
                raise BadFile(f'holds two arrays of rows, "{one}" and "{other}": write each to a file of its own')
            self._row_depth, self._start, self._wrapper = 3, -1, self._key
        elif self._start < 0 and depth == self._row_depth:
            if mark == b"[":
                raise BadRow(self._rows + 1, f"holds a list: {_RULE}")
            self._start, self._brackets = at, 0

    def _close(self, mark: bytes) -> bytes:
        if not self._open_brackets or self._open_brackets.pop() + mark not in (b"[]", b"{}"):
            raise BadFile(f"is not JSON: after {self._rows:,} rows, {mark.decode()} closes what is not open")
        row, depth = b"", len(self._open_brackets)
        if depth == self._row_depth - 1 and self._start >= 0:
            row, self._start = self._held[self._start : self._place], -1
        if depth < self._row_depth - 1:
            self._row_depth = 0 if self._wrapper else 1
        self._is_over = depth == 0 and self._wrapper != b""
        return row
