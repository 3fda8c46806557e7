"""Read files of tasks and of passages, and check them row by row.

A row of a **task** file holds

    question                 text, not empty
    answer | answers         a text or number, or a list of them
    aliases                  more gold answers
    id                       default: "<file>-<line>"
    passages | paragraphs    the passages that `search` returns: a list of {"title": text or null, "text": text}, or of texts
    files                    a path, or a list of paths, relative to the task file's directory: files in the session's workspace
    hops, difficulty         numbers
    source | dataset         default: the file's name
    ability                  qa, math, data, search or files; default: files if the row has some, otherwise qa
    split                    text
    licence | license        the data set's licence, text
    revision                 the data set's version, text

or is written in a shape of `lzero.data.shapes`. A row of a **passage** file holds `title` (text or null) and `text`. `tasks.columns` maps
columns with other names. A field name that nearly spells one of these is an error. Short texts and numbers in other fields become the
task's metadata; `TaskFile.unread` counts the rest. Errors name the file, the line (in Parquet: the row) and the field.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lzero.data.fields import has
from lzero.data.locating import Located, choose_split, locate, usual
from lzero.data.rows import read_rows
from lzero.data.task_rows import Reading, TaskReader, read_passage
from lzero.errors import DataError
from lzero.types import Passage, Task

__all__ = ["Reading", "TaskFile", "read_located", "read_passages", "read_tasks"]

TASK_BYTES = 4 << 30
"""Maximum size of the files of one source, unpacked: tasks are kept in memory."""
PASSAGE_BYTES = 256 << 30
"""Maximum size of a passage file, unpacked: its index is kept on disk."""


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """Tasks of a file or a directory, in their order."""

    tasks: tuple[Task, ...]
    unread: Mapping[str, int]
    """Field → number of rows in which it is neither a field of a task nor short enough for its metadata."""
    shapes: Mapping[str, int]
    """Name of a shape → number of rows that were converted from it."""


def read_tasks(path: Path, reading: Reading | None = None) -> TaskFile:
    """Read a task file, or a directory. Raises DataError, and ConfigError for `tasks.columns` with an unknown field."""
    reading = reading or Reading()
    return read_located(locate(path, key=reading.key), reading)


def read_located(located: Located, reading: Reading) -> TaskFile:
    """Read the tasks of a source. Raises as `read_tasks` does."""
    reader, where = reader_of(located, reading)
    tasks = list(iter_tasks(located, reader, key=reading.key))
    if not tasks:
        raise DataError(f"{where}: no tasks in it")
    reader.columns.check_used(where)
    if located.choose:
        split = choose_split((usual(task.split) for task in tasks), located.choose, where=where)
        several = len({usual(task.split) for task in tasks}) > 1
        tasks = [task for task in tasks if usual(task.split) == split or not several]
    return TaskFile(tasks=tuple(tasks), unread=dict(reader.unread), shapes=dict(reader.shapes))


def reader_of(located: Located, reading: Reading) -> tuple[TaskReader, str]:
    """Return what reads the rows of a source, and the source's name for errors."""
    reading = replace(
        reading,
        split=located.split or reading.split,
        source=reading.source or located.source,
        licence=located.licence,
        revision=located.revision,
    )
    where = f"{reading.key}: {located.shown}" if reading.key else located.shown
    return TaskReader(reading, located.directory), where


def iter_tasks(located: Located, reader: TaskReader, *, key: str = "") -> Iterator[Task]:
    """Yield the tasks of a source one by one. Raises DataError."""
    left = TASK_BYTES
    for file, name in located.files:
        used = 0
        for number, row in read_rows(file, key=key, max_bytes=left):
            used += row.size
            yield reader.task(row, name, number)
        left -= used


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield the passages of a file. Raises DataError."""
    for _, row in read_rows(path, max_bytes=PASSAGE_BYTES):
        if "text" not in row.fields:
            raise DataError(f"{row.where} has no field `text`. {has(row)} Rename the one that holds a passage")
        yield read_passage(row, "text", row.fields)
