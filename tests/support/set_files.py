"""Write small sets of tasks, and read what data stages made of them."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lzero.data.new_set import write_tasks
from lzero.data.stages.inputs import open_set
from lzero.data.table import to_tasks
from lzero.types import Task


def make_set(directory: Path, *tasks: Task) -> str:
    """Write a set, and return its path as the commands take it."""
    write_tasks(tasks, directory, stage="made", options={})
    return str(directory)


def tasks_of(directory: Path) -> list[Task]:
    return [task for batch in open_set(directory).batches() for task in to_tasks(batch)]


def ids_of(directory: Path) -> list[str]:
    return [task.id for task in tasks_of(directory)]


def dropped_of(directory: Path) -> dict[str, tuple[str, str | None]]:
    """Return id → reason and detail of the rows that a stage dropped."""
    rows: list[dict[str, Any]] = pq.read_table(directory / "dropped.parquet").to_pylist()
    return {row["id"]: (row["reason"], row["detail"]) for row in rows}


def bytes_of(directory: Path) -> dict[str, bytes]:
    """Return path → bytes of every file of a set."""
    files = (file for file in directory.rglob("*") if file.is_file())
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}
