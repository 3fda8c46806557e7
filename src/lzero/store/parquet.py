"""Read the tables of a run, which may come from a stranger, in a separate process with limits on memory, time and size.

Neither the footer of a Parquet file nor the headers of its pages bound the size of the decoded file. A few bytes may encode a long text in
each of a million rows, or a list of a billion numbers. So a fork decodes a few rows at a time, checks them, and adds up their bytes before
it keeps them.
"""

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc  # `cast` imports it, and a fork would each time
import pyarrow.parquet as pq

from lzero.apart import run_apart
from lzero.errors import StoreError
from lzero.paths import file_problem

MAX_FILE_BYTES = 4 << 30
MAX_BYTES = 8 << 30
"""Maximum bytes that the files of one process decode to."""
FREE_BYTES = 32 << 20
"""Bytes that any file may decode to, in addition to PACKED times its size."""
PACKED = 100
ROW_BYTES = 1_000
"""Bytes that a row counts in addition to its values: about the memory of its Python objects."""
MAX_VALUES = 1 << 25
"""Maximum values of one episode's rows, those in lists and JSON included: about 2 GB of Python objects. An episode of a million tokens
has a tenth of that."""
BATCH_ROWS = 256
DECODE_BYTES = 512 << 20
"""Memory of the process that decodes, in addition to four times the size of its files."""
DECODE_S = 60.0
"""Seconds that the process may take, in addition to one for every 4 MB of its files."""
TOGETHER = 64
"""Maximum files that one process reads; a fork takes ten times as long as reading a small file. TOGETHER_BYTES bounds their size."""
TOGETHER_BYTES = 16 << 20


class Wanted(NamedTuple):
    """A file and the columns and rows to read from it."""

    file: Path
    schema: pa.Schema
    """The columns."""
    only: tuple[str, str | int] | None = None
    """A column and the value that it has in the rows to read, of which there are MAX_VALUES values at most; None: all rows."""


def read_tables(wanted: Iterable[Wanted]) -> Iterator[pa.Table]:
    """Yield a table for each file, with the types of its schema.

    Raises StoreError for a file that is not such a table or is too large, and for chosen rows of too many values.
    """
    for together in _batches(wanted):
        try:
            tables = _read(together)
        except _Unreadable:  # read each file alone, to name the one at fault
            for each in together:
                yield from _read_one(each)
        else:
            yield from tables


class _Unreadable(Exception):
    """One of the files cannot be read."""


def _batches(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Yield the files in groups, one process for each. Raises StoreError for a path that is not a file or is too large."""
    together: list[Wanted] = []
    size = 0
    for each in wanted:
        own = _size(each.file)
        if together and (len(together) == TOGETHER or size + own > TOGETHER_BYTES):
            yield together
            together, size = [], 0
        together.append(each)
        size += own
    if together:
        yield together


def _size(file: Path) -> int:
    problem = file_problem(file)
    size = 0 if problem else file.stat().st_size
    if size > MAX_FILE_BYTES:
        problem = f"it is larger than {MAX_FILE_BYTES:,} bytes"
    if problem:
        raise StoreError(f"cannot read the episodes in {file}: {problem}")
    return size


def _read_one(wanted: Wanted) -> list[pa.Table]:
    try:
        return _read([wanted])
    except _Unreadable as error:
        raise StoreError(
            f"cannot read the episodes in {wanted.file}: {error}. Copy the run again, or remove the files of this update"
        ) from None


def _read(wanted: Sequence[Wanted]) -> list[pa.Table]:
    """Return the tables of a few files, which one process decodes. Raises _Unreadable, StoreError."""
    size = sum(_size(each.file) for each in wanted)
    max_bytes = min(MAX_BYTES, FREE_BYTES + PACKED * size)
    try:
        decoded = os.memfd_create("tables")
        try:
            outcome = run_apart(
                lambda: _decode(wanted, decoded, max_bytes),
                seconds=DECODE_S + size / 4e6,
                memory_bytes=min(MAX_BYTES, DECODE_BYTES + 4 * size),
            )
            kept = b"" if outcome.raised else mmap.mmap(decoded, 0, prot=mmap.PROT_READ)
        finally:
            os.close(decoded)
    except OSError as error:
        raise StoreError(
            f"cannot start a process that reads the episodes: {error.strerror}; free memory, or raise ulimit -u or -n"
        ) from error
    if outcome.raised:
        is_memory = "MemoryError" in outcome.raised
        raise _Unreadable("decoding it takes too much memory" if is_memory else outcome.reason)
    stream = pa.BufferReader(pa.py_buffer(kept))
    return [pa.ipc.open_stream(stream).read_all() for _ in wanted]


def _decode(wanted: Sequence[Wanted], decoded: int, max_bytes: int) -> str:
    """Write each table to the file descriptor `decoded`, as an Arrow stream. Raises ValueError, MemoryError, pyarrow's exceptions."""
    pa.set_memory_pool(pa.system_memory_pool())  # its locks are free after a fork
    size = 0
    with os.fdopen(decoded, "wb") as file:
        for path, schema, only in wanted:
            num_values = 0
            with pq.ParquetFile(path) as table, pa.ipc.new_stream(file, schema) as stream:
                if missing := set(schema.names) - set(table.schema_arrow.names):
                    raise ValueError(f"it has no column {min(missing)!r}, so another version of lzero wrote it")
                for rows in table.iter_batches(BATCH_ROWS, columns=schema.names, use_threads=False):
                    batch = pa.record_batch([rows[field.name].cast(field.type) for field in schema], schema=schema)
                    size += batch.nbytes + ROW_BYTES * batch.num_rows
                    if size > max_bytes:
                        raise ValueError(f"it holds more than {max_bytes:,} bytes, unpacked")
                    batch.validate(full=True)
                    if only is not None:
                        column, value = only
                        batch = batch.filter(pc.equal(batch[column], value))
                        num_values += sum(map(_num_values, batch.columns))
                        if num_values > MAX_VALUES:
                            raise ValueError(f"the rows of {column} = {value!r} hold more than {MAX_VALUES:,} values")
                    stream.write_batch(batch)
    return ""


def _num_values(values: pa.Array) -> int:
    """Return the number of values, those in lists, maps and structs included. A text counts as many as it would hold as JSON, or more."""
    kind, parts = values.type, []
    if pa.types.is_string(kind):
        counts = (pc.sum(pc.count_substring(values, pattern=sign), min_count=0).as_py() for sign in ",[{")
        return len(values) + int(sum(counts))
    if pa.types.is_map(kind):
        parts = [values.keys, values.items]
    elif pa.types.is_list(kind):
        parts = [values.flatten()]
    elif pa.types.is_struct(kind):
        parts = values.flatten()
    return len(values) + sum(map(_num_values, parts))
