"""Bounds and errors that all formats share."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MAX_ROW_BYTES = 64 << 20
"""Bytes of the largest row. An unpacked line can be a thousand times as long as its file."""
MAX_ROW_VALUES = 2_000_000
"""Values of a row, those in lists and objects included: `{},` takes three bytes of a file, and 64 in memory."""
MAX_BLANK_LINES = 100_000
"""The most blank lines in a row. Fifty kilobytes unpack to fifty million."""
MAX_COLUMNS = 10_000
"""Maximum columns of a file of separated values."""

Fields = dict[str, object]
Found = tuple[int, int, Fields]
"""Number (from 1), bytes and fields of a row."""


class BadRow(Exception):
    """A row that cannot be read: its number, and the problem."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(problem)
        self.number = number


class BadFile(Exception):
    """A file that cannot be read, with the problem."""


def too_large(number: int) -> BadRow:
    """Return the error about a row above MAX_ROW_BYTES."""
    return BadRow(
        number,
        f"is larger than the {MAX_ROW_BYTES:,} bytes that a row may have: split it, or give long texts as `files`",
    )


def too_many(number: int) -> BadRow:
    """Return the error about a row above MAX_ROW_VALUES."""
    return BadRow(
        number, f"holds more than the {MAX_ROW_VALUES:,} values that a row may have: split it, or give them as `files`"
    )


def opened(path: Path) -> IO[bytes] | gzip.GzipFile | io.BufferedReader:
    """Open a file for reading, unpacked if its name ends in .gz."""
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")


def lines(stream: IO[bytes] | gzip.GzipFile | io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each line, without the byte order mark of the first. Raises BadRow for a line above MAX_ROW_BYTES, and for
    more than MAX_BLANK_LINES in a row."""
    number = blank = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise too_large(number)
        blank = 0 if line[:8].strip() or line.strip() else blank + 1
        if blank > MAX_BLANK_LINES:
            raise BadRow(number, f"comes after {MAX_BLANK_LINES:,} blank lines: remove them")
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
