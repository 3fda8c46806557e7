"""Read the episodes of a run from the tables in its directory, or the rows of one table beside them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pyarrow as pa

from lzero.errors import StoreError
from lzero.paths import is_within
from lzero.store.parquet import Wanted, read_tables
from lzero.store.record import Phase, Record
from lzero.store.schemas import RECORD_TABLES, SCHEMAS
from lzero.store.tables import to_episodes, to_records
from lzero.types import Episode

NOT_READ = frozenset(("checkpoints", "tensorboard", "wandb"))
"""Directories of a run without files that this package reads."""


def read_records(path: Path, *, phase: Phase | None = None, update: int | None = None) -> Iterator[Record]:
    """Yield every record of a run, or of one update, ordered by phase ("eval", "sampled", "train") and update. Raises StoreError."""
    files = episode_files(path, phase, update)
    schemas = {name: SCHEMAS[name] for name in RECORD_TABLES}
    for file, tables in zip(files, read_tables_of(path, files, schemas), strict=True):
        with validated(path, file):
            records = to_records(tables)
        yield from records


def read_episodes(path: Path, *, phase: Phase | None = None) -> Iterator[Episode]:
    """Yield every episode of a run, in the same order, failed and dropped ones included. Raises StoreError."""
    files = episode_files(path, phase)
    schemas = {name: SCHEMAS[name] for name in ("episodes", "steps")}
    for file, tables in zip(files, read_tables_of(path, files, schemas), strict=True):
        with validated(path, file):
            episodes = to_episodes(tables)
        yield from episodes


def read_rows(path: Path, name: str, *, phase: Phase, update: int) -> list[dict[str, Any]]:
    """Return the rows of one side table; an empty list if the run has no such file. Raises StoreError."""
    file = f"{phase}-{update:06d}.parquet"
    if not (path / "episodes" / name / file).exists():
        return []
    (tables,) = read_tables_of(path, [file], {name: SCHEMAS[name]})
    rows: list[dict[str, Any]] = tables[name].to_pylist()
    return rows


def check_run(path: Path) -> None:
    """Raise StoreError if `path` is not the directory of a run, or holds a link to a file elsewhere: the run may be a stranger's.

    `checkpoints/` may be elsewhere; `lzero.train.checkpoint` checks what it opens.
    """
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file: name the directory of a run")
    if not (path / "config.toml").is_file():
        raise StoreError(f"{path} is not a run directory: it holds no config.toml")
    for folder, folders, files in os.walk(path):
        if Path(folder) == path:
            folders[:] = sorted({*folders} - NOT_READ)
        for file in (Path(folder, name) for name in (*folders, *files)):
            if file.is_symlink() and not is_within(file, path):
                raise StoreError(
                    f"{file} is a symbolic link to a file outside of the run, which may be a stranger's: copy the file here"
                )


def episode_files(path: Path, phase: Phase | None, update: int | None = None) -> list[str]:
    """Return the names of a run's files of episodes. Raises StoreError."""
    check_run(path)
    number = "*" if update is None else f"{update:06d}"
    return sorted(file.name for file in (path / "episodes" / "episodes").glob(f"{phase or '*'}-{number}.parquet"))


def read_tables_of(
    path: Path,
    files: Sequence[str],
    schemas: Mapping[str, pa.Schema],
    only: Mapping[str, tuple[str, str | int]] = MappingProxyType({}),
) -> Iterator[dict[str, pa.Table]]:
    """Yield the tables of each of a run's `files`. `schemas`: name of a table → the columns to read. `only`: name of a table → a column,
    and the value that it has in the rows to read. Raises StoreError."""
    folder = path / "episodes"
    tables = read_tables(
        Wanted(folder / name / file, schema, only.get(name)) for file in files for name, schema in schemas.items()
    )
    for _ in files:
        yield {name: next(tables) for name in schemas}


@contextmanager
def validated(path: Path, file: str) -> Iterator[None]:
    """Raise StoreError for an exception about the values of a run's `file`."""
    try:
        yield
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise StoreError(
            f"the episodes in {path / 'episodes'}/*/{file} are damaged or were changed: {error}. Copy the run again, or remove these "
            "files"
        ) from None
