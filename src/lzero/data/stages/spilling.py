"""DuckDB within a bound on memory, and its findings about rows, in a file.

with database(scratch) as connection:
    fill(connection, "ids", schema, batches, select="SELECT * FROM batches")
    marks = Marks.found(connection, "SELECT row_index, id FROM ids WHERE … ORDER BY row_index", scratch / "marks.arrow")
marks.take(start=0, rows=8192)["id"]      # what was found for these rows, null elsewhere
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from lzero.data.stages import Decision, Keep, Part
from lzero.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "256MB"
THREADS = 2
ROWS_AT_ONCE = 8_192


@contextmanager
def database(scratch: Path) -> "Iterator[DuckDBPyConnection]":
    """Yield an empty database that takes at most MEMORY, and spills to `scratch`. It reads no file and loads no extension.

    Converts DuckDB's errors (a full disk) to DataError.
    """
    import duckdb

    settings = {
        "memory_limit": MEMORY,
        "threads": THREADS,
        "temp_directory": str(scratch / "spill"),
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "preserve_insertion_order": "false",
    }
    try:
        with duckdb.connect(":memory:", config=settings) as connection:
            connection.execute("SET enable_external_access = false")
            yield connection
    except duckdb.Error as error:
        raise DataError(f"comparing the rows failed: {error!s:.300}") from error


def fill(
    connection: "DuckDBPyConnection", table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, select: str
) -> None:
    """Create a table from a query over the batches, which the query calls `batches`."""
    connection.register("batches", pa.RecordBatchReader.from_batches(schema, batches))
    connection.execute(f"CREATE TABLE {table} AS {select}")
    connection.unregister("batches")


class Marks:
    """Values that a query found for some rows. `row_index` is the index of a row over all inputs; indices ascend, each at most once."""

    def __init__(self, file: Path) -> None:
        self._stream = pa.ipc.open_stream(pa.OSFile(str(file)))
        self._waiting: pa.Table = self._stream.schema.empty_table()
        self._ended = False
        self.taken = 0
        """Number of marks that were taken."""

    @classmethod
    def found(cls, connection: "DuckDBPyConnection", query: str, file: Path) -> "Marks":
        """Write what a query finds to a file, and open it."""
        reader = connection.sql(query).to_arrow_reader(ROWS_AT_ONCE)
        return cls.stored(reader.schema, reader, file)

    @classmethod
    def stored(cls, schema: pa.Schema, batches: Iterable[pa.RecordBatch], file: Path) -> "Marks":
        """Write batches of marks to a file, and open it."""
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            for batch in batches:
                stream.write_batch(batch)
        return cls(file)

    def take(self, *, start: int, rows: int) -> dict[str, pa.Array]:
        """Return column → values of `rows` rows from `start` on, null for a row without a mark. Ask for the rows in their order."""
        found = self._before(start + rows)
        self.taken += found.num_rows
        row_indices = found["row_index"].to_pylist()
        return {
            field.name: _spread(found[field.name], row_indices, start, rows)
            for field in found.schema
            if field.name != "row_index"
        }

    def _before(self, end: int) -> pa.Table:
        parts = [self._waiting]
        while not self._ended and (not parts[-1].num_rows or parts[-1]["row_index"][-1].as_py() < end):
            try:
                parts.append(pa.Table.from_batches([self._stream.read_next_batch()]))
            except StopIteration:
                self._ended = True
        whole = pa.concat_tables(parts)
        count = pc.sum(pc.less(whole["row_index"], end), min_count=0).as_py()
        self._waiting = whole.slice(count)
        return whole.slice(0, count)


def _spread(values: pa.ChunkedArray, row_indices: list[int], start: int, rows: int) -> pa.Array:
    if not row_indices:
        return pa.nulls(rows, values.type)
    spread: list[object] = [None] * rows
    for row_index, value in zip(row_indices, values.to_pylist(), strict=True):
        spread[row_index - start] = value
    return pa.array(spread, values.type)


class DropMarked(Keep):
    """Drops the rows for which `prepare` has found marks with a reason and a detail."""

    _marks: Marks

    def decide(self, part: Part) -> Decision:
        found = self._marks.take(start=part.start, rows=part.batch.num_rows)
        return Decision(part.batch, found["reason"], found["detail"])
