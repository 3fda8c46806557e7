"""Rows of Arrow batches, which Parquet and Arrow files hold, within bounds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from lzero.apart import run_apart
from lzero.data.formats import base
from lzero.data.formats.base import BadFile, BadRow, Found, too_large, too_many

BATCH_ROWS = 16
"""Rows that are converted at once."""
DECODE_BYTES = 2 << 30
"""Maximum memory for decoding a file, a batch at a time."""
DECODE_S, DECODE_BYTES_A_S = 60.0, 4e6
"""Maximum seconds for decoding it: DECODE_S, and one more for every DECODE_BYTES_A_S bytes of the file."""

Batches = Callable[[Path], Iterator[pa.RecordBatch]]


def read(path: Path, batches: Batches) -> Iterator[Found]:
    """Yield number, bytes (the mean of its batch) and fields of each row. Raises BadRow, BadFile and pyarrow's exceptions."""
    _check_decodable(path, batches)
    number = 0
    for batch in _bounded_batches(path, batches):
        size = batch.nbytes // max(1, batch.num_rows)
        if size > base.MAX_ROW_BYTES:
            raise too_large(number + 1)
        if num_values(batch) > base.MAX_ROW_VALUES:
            raise too_many(number + 1)
        try:
            rows = _with_doubles(batch).to_pylist(maps_as_pydicts="strict")
        except KeyError as error:  # which pyarrow raises for a map with a key twice
            raise BadRow(
                number + 1, f"or one of the {BATCH_ROWS - 1} after it has a key twice: {error.args[0]}"
            ) from None
        for fields in rows:
            number += 1
            yield number, size, fields


def _bounded_batches(path: Path, batches: Batches) -> Iterator[pa.RecordBatch]:
    """Yield as many rows at a time as have few values together, or else one."""
    for batch in _plain_batches(path, batches):
        if num_values(batch) <= base.MAX_ROW_VALUES:
            yield batch
        else:
            yield from (batch.slice(row, 1) for row in range(batch.num_rows))


def num_values(values: pa.RecordBatch | pa.Array) -> int:
    """Return the number of values, those in lists, maps and structs included."""
    if isinstance(values, pa.RecordBatch):
        return sum(map(num_values, values.columns))
    kind, parts = values.type, []
    if pa.types.is_map(kind):
        first, end = values.offsets[0].as_py(), values.offsets[-1].as_py()
        parts = [each.slice(first, end - first) for each in (values.keys, values.items)]
    elif pa.types.is_struct(kind):
        parts = values.flatten()
    elif pa.types.is_nested(kind):
        parts = [values.flatten()]
    return len(values) + sum(map(num_values, parts))


def _plain_batches(path: Path, batches: Batches) -> Iterator[pa.RecordBatch]:
    """Yield BATCH_ROWS rows at a time, with dictionaries expanded, so that a text counts in each row that refers to it."""
    for batch in batches(path):
        plain = pa.schema([field.with_type(_plain(field.type)) for field in batch.schema])
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS).cast(plain)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type with dictionaries replaced by the types of their values.

    Raises BadFile for a type of which a few bytes may be many values.
    """
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return kind if (inner := _plain(kind.storage_type)) == kind.storage_type else inner
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = kind.value_field.with_type(_plain(kind.value_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(inner, kind.list_size)
        return pa.list_(inner) if pa.types.is_list(kind) else pa.large_list(inner)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_nested(kind) or pa.types.is_run_end_encoded(kind):
        raise BadFile(f"has a column of the type {str(kind)!r:.60}, which is not read: write it again as .jsonl.gz")
    return kind


def _check_decodable(path: Path, batches: Batches) -> None:
    """Decode a file in a fork, and raise BadFile if that takes too much memory or time, or crashes.

    Neither the footer of a Parquet file nor its headers bound what it decodes to. Other errors are raised again when this process reads it.
    """
    outcome = run_apart(
        lambda: _decode(path, batches),
        seconds=DECODE_S + path.stat().st_size / DECODE_BYTES_A_S,
        memory_bytes=DECODE_BYTES,
    )
    is_memory = "MemoryError" in outcome.raised
    if is_memory or outcome.raised[:1] in (("TimeoutError",), ("RuntimeError",)):
        why = f"decoding it takes more than {DECODE_BYTES:,} bytes" if is_memory else outcome.reason
        raise BadFile(f"cannot be read: {why}. Write it again with smaller rows, or as .jsonl.gz")


def _decode(path: Path, batches: Batches) -> str:
    """Decode a file as `read` does, up to a batch whose rows are too large."""
    pa.set_memory_pool(pa.system_memory_pool())  # its locks are free after a fork
    for batch in _plain_batches(path, batches):
        if batch.nbytes > base.MAX_ROW_BYTES * batch.num_rows:
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
