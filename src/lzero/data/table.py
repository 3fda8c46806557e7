"""Tasks as Parquet tables, one batch of rows at a time.

The columns are the fields of a Task, passages as a list of {title, text} and metadata as a map, so any reader of Parquet can use them:

    for batch in read_batches(Path("hotpot/tasks.parquet")):
        for task in to_tasks(batch): ...

A table may come from a stranger: before anything reads it, `check_table` bounds what it decodes to, and checks each value.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lzero.apart import run_apart
from lzero.data.formats.columnar import num_values
from lzero.errors import DataError
from lzero.paths import file_problem
from lzero.store.schemas import SCHEMAS
from lzero.types import ABILITIES, Task

_OWN = {
    "id": pa.string(),
    "passages": pa.list_(pa.struct([("title", pa.string()), ("text", pa.string())])),
}
TASKS: Final = pa.schema(
    [(name, _OWN.get(name) or SCHEMAS["tasks"].field(name).type) for name in Task.__struct_fields__]
)
"""The columns of tasks.parquet."""
REASONS: Final = pa.schema([("stage", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
DROPPED: Final = pa.schema([*TASKS, *REASONS])
"""The columns of dropped.parquet: the whole row, the data stage that dropped it, the reason that is counted, and what it is about."""
REQUIRED: Final = ("id", "question", "answers")
"""Columns that every table has. The others have defaults."""

GROUP_ROWS, GROUP_BYTES = 16_384, 32 << 20
"""Rows and bytes of the largest row group that is written."""
BATCH_ROWS, BATCH_BYTES = 8_192, 16 << 20
"""Rows of a batch that is read; fewer where so many rows take more than BATCH_BYTES."""
MAX_BATCH_BYTES: Final = 1 << 30
MAX_BATCH_VALUES: Final = 16_000_000
"""Bytes and values of the largest batch: a passage may take 8 bytes there, and 200 as a Python object."""
DECODE_BYTES: Final = 2 << 30
DECODE_S, DECODE_BYTES_A_S = 60.0, 2e6
"""Seconds in which a table must be decoded: DECODE_S, and one more for every DECODE_BYTES_A_S bytes of the file."""
_REPEATED = ("ability", "source", "split", "licence", "revision")
"""Columns of few different values."""


class TableWriter:
    """Writes batches to a Parquet file, in row groups of a bounded size. The same batches give the same bytes."""

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._writer = pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=[*_REPEATED])
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch of the schema's columns."""
        if not batch.num_rows:
            return
        self.rows += batch.num_rows
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0


def to_batch(tasks: Sequence[Task]) -> pa.RecordBatch:
    """Return tasks as a batch of TASKS."""
    columns = [_column([getattr(task, field.name) for task in tasks], field) for field in TASKS]
    return pa.record_batch(columns, schema=TASKS)


def to_tasks(batch: pa.RecordBatch) -> Iterator[Task]:
    """Yield the rows of a batch of TASKS. Raises msgspec.ValidationError for a value that no task can have."""
    for row in batch.to_pylist(maps_as_pydicts="strict"):
        yield msgspec.convert(row, Task)


def check_table(file: Path) -> None:
    """Decode a whole table in a fork, and check each value.

    Raises DataError for a file that is no table of tasks, or takes too much memory or time.
    """
    if problem := file_problem(file):
        raise DataError(f"{file} cannot be read: {problem}")
    seconds = DECODE_S + file.stat().st_size / DECODE_BYTES_A_S
    outcome = run_apart(lambda: _decode(file), seconds=seconds, memory_bytes=DECODE_BYTES)
    if outcome.raised:
        is_memory = "MemoryError" in outcome.raised
        why = f"decoding it takes more than {DECODE_BYTES:,} bytes" if is_memory else outcome.reason
        raise DataError(f"{file} is no table of tasks: {why}")


def read_batches(file: Path, columns: Sequence[str] = tuple(TASKS.names)) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table that `check_table` has passed, as batches of these columns, in their order.

    A column that the table lacks has its default.
    """
    schema = pa.schema([TASKS.field(name) for name in columns])
    with pq.ParquetFile(file) as table:
        there = [name for name in columns if name in table.schema_arrow.names]
        if missing := sorted(set(REQUIRED) & set(columns) - set(there)):
            raise DataError(f"it has no column `{missing[0]}`")
        for batch in table.iter_batches(_batch_rows(table.metadata), columns=there):
            yield pa.record_batch(
                [
                    batch[field.name].cast(field.type) if field.name in there else _default(field, batch.num_rows)
                    for field in schema
                ],
                schema=schema,
            )


def num_rows(file: Path) -> int:
    """Return the number of rows in a table's footer. Raises DataError for a file that is no Parquet table."""
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a whole Parquet file: {error}") from error


def _batch_rows(metadata: Any) -> int:
    """Return the rows that take about BATCH_BYTES, by what the footer says; at least 16, so a false footer costs little."""
    size = sum(int(metadata.row_group(index).total_byte_size) for index in range(metadata.num_row_groups))
    return max(16, min(BATCH_ROWS, BATCH_BYTES * int(metadata.num_rows) // max(1, size)))


def _default(field: pa.Field, rows: int) -> pa.Array:
    default = next(each.default for each in msgspec.structs.fields(Task) if each.name == field.name)
    return _column([{} if pa.types.is_map(field.type) else default] * rows, field)


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    if pa.types.is_map(field.type):
        values = [list(value.items()) for value in values]
    elif field.name == "passages":
        values = [[{"title": each.title, "text": each.text} for each in passages] for passages in values]
    return pa.array(values, field.type)


def _decode(file: Path) -> str:
    """Raise an exception for what `check_table` refuses."""
    pa.set_memory_pool(pa.system_memory_pool())  # its locks are free after a fork
    pa.set_cpu_count(1)
    start = 0
    for batch in read_batches(file):
        if batch.nbytes > MAX_BATCH_BYTES:
            raise ValueError(f"{batch.num_rows} of its rows hold {batch.nbytes:,} bytes")
        if (number := num_values(batch)) > MAX_BATCH_VALUES:
            raise ValueError(f"{batch.num_rows} of its rows hold {number:,} values")
        batch.validate(full=True)
        _check_values(batch, start)
        start += batch.num_rows
    return ""


def _check_values(batch: pa.RecordBatch, start: int) -> None:
    """Raise ValueError for a row that no Task can hold."""
    for field in batch.schema:
        values = batch[field.name]
        if (wrong := _first_wrong(field.name, values)) is not None:
            raise ValueError(f"row {start + wrong + 1} has no valid `{field.name}`")
        if pa.types.is_list(field.type) and values.flatten().null_count:
            raise ValueError(
                f"one of the rows {start + 1} to {start + len(values)} has an empty entry in `{field.name}`"
            )


def _first(wrong: pa.Array) -> int | None:
    """Return the index of the first value that is true; None if all are false."""
    return int(wrong.to_pylist().index(True)) if pc.any(wrong).as_py() else None


def _first_wrong(name: str, values: pa.Array) -> int | None:
    """Return the index of the first invalid value; None if all are valid. Makes no arrow values, because that imports pandas."""
    if name == "difficulty":
        return _first(pc.invert(pc.fill_null(pc.is_finite(values), True)))
    if name == "hops":
        return None
    if values.null_count:
        return int(values.is_null().to_pylist().index(True))
    if name == "metadata":
        rows = enumerate(values.to_pylist())
        return next(
            (index for index, row in rows if len({key for key, text in row if text is not None}) < len(row)), None
        )
    if name == "passages":
        parts = pc.struct_field(values.flatten(), "title"), pc.struct_field(values.flatten(), "text")
        if any(part.null_count for part in parts):
            rows = enumerate(values.to_pylist())
            return next(
                (index for index, row in rows if any(None in passage.values() for passage in row if passage)), None
            )
    if name == "ability" and (unknown := set(pc.unique(values).to_pylist()) - set(ABILITIES)):
        return next(index for index, value in enumerate(values.to_pylist()) if value in unknown)
    if name == "question" and len(values):
        is_blank = pc.any(pc.utf8_is_space(values)).as_py() or pc.min(pc.binary_length(values)).as_py() == 0
        if is_blank:
            return next((index for index, text in enumerate(values.to_pylist()) if not text.strip()), None)
    return None
