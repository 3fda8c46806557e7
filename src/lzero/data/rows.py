"""Read the rows of a file one by one, within bounds, in every format of `lzero.data.formats`.

The errors of a row name the configuration's key, the file, the line (in Parquet: the row) and the field.
"""

import gzip
import math
import sys
import zlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa

from lzero.config import ROW_FILES
from lzero.data.formats import BadFile, BadRow, Fields, reader_of
from lzero.data.values import shown, written
from lzero.errors import DataError
from lzero.paths import file_problem

LARGEST_NUMBER = sys.float_info.max
"""Largest number in a field that holds numbers, such as `difficulty`. An answer may be any whole number."""


class RowError(DataError):
    """A row whose field holds no value that a task can have."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class Row:
    """One row, with its place for error messages."""

    def __init__(self, where: str, fields: Fields, *, size: int = 0) -> None:
        """`size`: its bytes in the file, unpacked."""
        self.where = where
        self.fields = fields
        self.size = size

    def error(self, field: str, problem: str) -> "RowError":
        return RowError(f"{self.where}: field `{field}` {problem}", field)

    def first(self, *names: str) -> str:
        """Return the first of `names` that the row has a value for, else the last of them."""
        return next((name for name in names if self.fields.get(name) is not None), names[-1])

    def text(self, field: str, default: str = "") -> str:
        value = self.fields.get(field)
        return default if value is None else self._text(field, value)

    def texts(self, field: str) -> list[str]:
        """Return a field that holds a text or a list of texts; [] if it is absent. Numbers count as texts."""
        value = self.fields.get(field)
        if value is None:
            return []
        values = value if isinstance(value, list) else [value]
        return [self._text(field, item) for item in values]

    def number(self, field: str) -> float | None:
        value = self.fields.get(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_NUMBER:
            raise self.error(field, f"is {shown(value)}: give a number, or leave it out")
        return float(value)

    def _text(self, field: str, value: object) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not _is_finite(value):
            raise self.error(field, f"holds {shown(value)}: give a text")
        return written(value)


def _is_finite(value: float | Decimal) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an int may be too large for a float


def read_rows(path: Path, *, key: str = "", max_bytes: int) -> Iterator[tuple[int, Row]]:
    """Yield number (from 1) and row of each line that is not blank.

    `key`: the configuration's, for errors. Raises DataError if the file cannot be read, if a row is not an object or exceeds MAX_ROW_BYTES,
    or if all rows together exceed `max_bytes`, unpacked.
    """
    of = f"{key}: " if key else ""
    problem = file_problem(path)
    if problem:
        raise DataError(f"{of}{path} cannot be read: {problem}")
    found = reader_of(path)
    if found is None:
        raise DataError(f"{of}{path}: a file of tasks or passages ends in {', '.join(ROW_FILES)}")
    unit, read = found
    number, total = 0, 0
    try:
        for number, size, fields in read(path):
            total += size
            if total > max_bytes:
                raise DataError(
                    f"{of}{path} holds more than {max_bytes:,} bytes, unpacked: split it into several files"
                )
            yield number, Row(f"{of}{unit} {number} of {path}", fields, size=size)
    except BadRow as error:
        raise DataError(f"{of}{unit} {error.number} of {path} {error}") from None
    except BadFile as error:
        raise DataError(f"{of}{path} {error}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{of}{path} is not a whole gzip file ({error}): fetch or compress it again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{of}{path} has a text that is not UTF-8, after row {number}: {error}") from error
    except pa.ArrowException as error:
        raise DataError(f"{of}{path} is not a whole {path.suffix[1:].capitalize()} file: {error}") from error
    except OSError as error:
        raise DataError(f"{of}{path} cannot be read: {error.strerror or error}") from error
