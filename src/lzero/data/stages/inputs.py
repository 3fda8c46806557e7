"""Open what a data stage reads: sets, and any other source of tasks, which is converted to a table first."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from lzero.data.files import Reading, iter_tasks, reader_of
from lzero.data.manifest import TASKS_FILE, Input, Manifest, files_digest, is_set, read_manifest
from lzero.data.new_set import NewSet
from lzero.data.sources import locate_spec
from lzero.data.table import TASKS, TableWriter, check_table, num_rows, read_batches
from lzero.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An input whose rows can be read as often as needed."""

    name: str
    """As the user named it."""
    table: Path
    root: Path
    """The directory that the paths of its files are relative to."""
    rows: int
    digest: str
    made: Manifest | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    """What its conversion counted."""

    def batches(self, columns: Sequence[str] = tuple(TASKS.names)) -> Iterator[pa.RecordBatch]:
        """Yield the rows as batches of these columns. Raises DataError."""
        return read_batches(self.table, columns)

    def described(self) -> Input:
        """Return the input as a manifest holds it."""
        return Input(name=self.name, rows=self.rows, digest=self.digest, counts=dict(self.counts), made=self.made)


def open_inputs(specs: Sequence[str], new: NewSet, *, columns: Mapping[str, str]) -> list[Opened]:
    """Open each of `specs`. Raises ConfigError, DataError, StoreError."""
    if columns and all(is_set(Path(spec)) for spec in specs):
        raise ConfigError("columns have an effect on files only, and each input is a set: leave them out")
    return [_open(spec, new, number, columns) for number, spec in enumerate(specs)]


@contextmanager
def opened(specs: Sequence[str], *, columns: Mapping[str, str] | None = None) -> Iterator[list[Opened]]:
    """Yield inputs that are read but not written as a set: for reports, and benchmarks. Raises ConfigError, DataError, StoreError."""
    with tempfile.TemporaryDirectory() as directory, NewSet(Path(directory) / "read", stage="read") as new:
        yield open_inputs(specs, new, columns=columns or {})


def open_set(directory: Path) -> Opened:
    """Open a set. Raises DataError for a broken one."""
    manifest = read_manifest(directory)
    table = directory / TASKS_FILE
    check_table(table)
    return Opened(
        name=str(directory), table=table, root=directory, rows=num_rows(table), digest=manifest.digest, made=manifest
    )


def _open(spec: str, new: NewSet, number: int, columns: Mapping[str, str]) -> Opened:
    path = Path(spec).expanduser()
    if is_set(path):
        return open_set(path)
    table = new.scratch / f"input-{number}.parquet"
    writer = TableWriter(table, TASKS)
    located = locate_spec(spec, key="input")
    reader, where = reader_of(located, Reading(columns=columns))
    for batch in new.batches(iter_tasks(located, reader)):
        writer.write(batch)
    writer.close()
    if not writer.rows:
        raise DataError(f"{where}: no tasks in it")
    reader.columns.check_used(where)
    digest = files_digest(file for file, _ in located.files)
    return Opened(name=spec, table=table, root=new.partial, rows=writer.rows, digest=digest, counts=reader.counts())
