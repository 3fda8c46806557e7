"""Read rows of JSONL, gzipped JSONL and Parquet files one by one, within bounds.

The errors of a row name the configuration's key, the file, the line (in Parquet: the row) and the field.
"""

import gzip
import io
import math
import sys
import zlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import IO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from lzero.apart import run_apart
from lzero.config import ROW_FILES
from lzero.errors import DataError
from lzero.paths import file_problem

MAX_ROW_BYTES = 64 << 20
"""Bytes of the largest row. An unpacked line can be a thousand times as long as its file."""
LARGEST_NUMBER = sys.float_info.max
"""Largest number in a field that holds numbers, such as `difficulty`. An answer may be any whole number."""
BATCH_ROWS = 16
"""Rows of a Parquet file that are decoded at once."""
DECODE_BYTES = 2 << 30
"""Maximum memory for decoding a Parquet file, BATCH_ROWS at a time."""
DECODE_S, DECODE_BYTES_A_S = 60.0, 4e6
"""Maximum seconds for decoding it: DECODE_S, and one more for every DECODE_BYTES_A_S bytes of the file."""

LARGEST_WHOLE = 2**53
"""Below it, a float holds every whole number."""

Fields = dict[str, object]


class Row:
    """One row, with its place for error messages."""

    def __init__(self, where: str, fields: Mapping[str, object]) -> None:
        self.where = where
        self.fields = fields

    def error(self, field: str, problem: str) -> DataError:
        return DataError(f"{self.where}: field `{field}` {problem}")

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
        return value

    def _text(self, field: str, value: object) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not _is_finite(value):
            raise self.error(field, f"holds {shown(value)}: give a text")
        return written(value)


def _is_finite(value: float | Decimal) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an int may be too large for a float


def written(value: float | Decimal) -> str:
    """Return a number as a person writes it: `written(5.0) == "5"`. A column of floats cannot store whole numbers otherwise."""
    if isinstance(value, Decimal):
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return (
        str(int(value))
        if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_WHOLE
        else str(value)
    )


def shown(value: object) -> str:
    """Return a value as an error message shows it: a list as "a list", a text by its first characters."""
    kinds = {type(None): "nothing", bool: "true or false", dict: "an object", list: "a list"}
    return kinds.get(type(value)) or f"{value!r:.60}"


def read_rows(path: Path, *, key: str = "", max_bytes: int) -> Iterator[tuple[int, Row]]:
    """Yield number (from 1) and row of each line that is not blank.

    `key`: the configuration's, for errors. Raises DataError if the file cannot be read, if a row is not an object or exceeds MAX_ROW_BYTES,
    or if all rows together exceed `max_bytes`, unpacked.
    """
    of = f"{key}: " if key else ""
    problem = file_problem(path)
    if problem:
        raise DataError(f"{of}{path} cannot be read: {problem}")
    if not path.name.endswith(ROW_FILES):
        raise DataError(f"{of}{path}: a file of tasks or passages ends in {', '.join(ROW_FILES)}")
    is_parquet = path.name.endswith(".parquet")
    read = _parquet_rows if is_parquet else _json_rows
    unit = "row" if is_parquet else "line"
    number, total = 0, 0
    try:
        for number, size, fields in read(path):
            total += size
            if total > max_bytes:
                raise DataError(
                    f"{of}{path} holds more than {max_bytes:,} bytes, unpacked: split it into several files"
                )
            yield number, Row(f"{of}{unit} {number} of {path}", fields)
    except _BadRow as error:
        raise DataError(f"{of}{unit} {error.number} of {path} {error}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{of}{path} is not a whole gzip file ({error}): fetch or compress it again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{of}{path} has a text that is not UTF-8, after row {number}: {error}") from error
    except pa.ArrowException as error:
        raise DataError(f"{of}{path} is not a whole Parquet file: {error}") from error
    except OSError as error:
        raise DataError(f"{of}{path} cannot be read: {error.strerror or error}") from error


class _BadRow(Exception):
    def __init__(self, number: int, problem: str) -> None:
        super().__init__(problem)
        self.number = number


_TOO_LARGE = f"is larger than the {MAX_ROW_BYTES:,} bytes that a row may have: split it, or give long texts as `files`"


def _json_rows(path: Path) -> Iterator[tuple[int, int, Fields]]:
    """Yield number, bytes and fields of each line."""
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as lines:
        for number, line in _lines(lines):
            if len(line) > MAX_ROW_BYTES:
                raise _BadRow(number, _TOO_LARGE)
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not text:
                continue
            try:
                fields = msgspec.json.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise _BadRow(number, f"is not JSON in UTF-8: {error}") from None
            if not isinstance(fields, dict):
                raise _BadRow(number, f"holds {shown(fields)}: each line is one JSON object")
            yield number, len(line), fields


def _lines(stream: IO[bytes] | gzip.GzipFile | io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Yield number and text of each line. A line above MAX_ROW_BYTES is cut just above that."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        yield number, line


def _parquet_rows(path: Path) -> Iterator[tuple[int, int, Fields]]:
    """Yield number, bytes (the mean of its batch) and fields of each row."""
    _check_decodable(path)
    number = 0
    for batch in _batches(path):
        size = batch.nbytes // max(1, batch.num_rows)
        if size > MAX_ROW_BYTES:
            raise _BadRow(number + 1, _TOO_LARGE)
        for fields in _with_doubles(batch).to_pylist():
            number += 1
            yield number, size, fields


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield BATCH_ROWS rows at a time, with dictionaries expanded, so that a text counts in each row that refers to it."""
    with pq.ParquetFile(path) as file:
        plain = pa.schema([field.with_type(_plain(field.type)) for field in file.schema_arrow])
        for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
            yield batch.cast(plain)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type with dictionaries replaced by the types of their values."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    return kind


def _check_decodable(path: Path) -> None:
    """Decode a Parquet file in a fork, and raise DataError if that takes too much memory or time, or crashes.

    Neither its footer nor its headers bound what it decodes to. Other errors are raised again when this process reads it.
    """
    outcome = run_apart(
        lambda: _decode(path),
        seconds=DECODE_S + path.stat().st_size / DECODE_BYTES_A_S,
        memory_bytes=DECODE_BYTES,
    )
    is_memory = "MemoryError" in outcome.raised
    if is_memory or outcome.raised[:1] in (("TimeoutError",), ("RuntimeError",)):
        why = f"decoding it takes more than {DECODE_BYTES:,} bytes" if is_memory else outcome.reason
        raise DataError(f"{path} cannot be read: {why}. Write it again with smaller rows, or as .jsonl.gz")


def _decode(path: Path) -> str:
    """Decode a Parquet file as `_parquet_rows` does, up to a batch whose rows are too large."""
    pa.set_memory_pool(pa.system_memory_pool())  # its locks are free after a fork
    for batch in _batches(path):
        if batch.nbytes > MAX_ROW_BYTES * batch.num_rows:
            break
    return ""


def _with_doubles(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch with its columns of small floats in doubles of the same decimal digits: 0.1 is not 0.10000000149011612."""
    for index, column in enumerate(batch.schema):
        is_list = pa.types.is_list(column.type)
        inner = column.type.value_type if is_list else column.type
        if pa.types.is_float16(inner) or pa.types.is_float32(inner):
            values = batch.column(index)
            for kind in (pa.float32(), pa.string(), pa.float64()):
                values = values.cast(pa.list_(kind) if is_list else kind)
            batch = batch.set_column(index, column.name, values)
    return batch
