"""Write a set: a directory that is complete under its own name, or absent.

    with NewSet(Path("merged"), stage="merge") as new:
        new.write(batch, reasons)
        new.finish(options={}, inputs=inputs)

The directory is written beside its final name, as `.merged.partial`, and renamed at the end. A stage that is killed leaves only that; the
next one removes it and begins again, so its result is the same as if nobody had been killed.
"""

import fcntl
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from lzero.data.manifest import DROPPED_FILE, FILES, TASKS_FILE, Input, Manifest, file_digest, write_manifest
from lzero.data.table import DROPPED, TASKS, TableWriter, to_batch
from lzero.errors import ConfigError, DataError
from lzero.paths import is_within
from lzero.store.writing import as_store_error
from lzero.types import Json, Task

SCRATCH = "scratch"
TASKS_AT_ONCE = 1_024
"""Tasks that are converted to a batch at once."""


class NewSet:
    """A set that is being written. `scratch` is a directory for what a stage needs until the set is finished."""

    def __init__(self, directory: Path, *, stage: str, kept: Sequence[str] = ()) -> None:
        """`stage` names the data stage. `kept`: files of an attempt that did not finish, which this one goes on with.

        Raises ConfigError for a directory that exists, or that another process writes.
        """
        self.directory = directory
        self.stage = stage
        self.partial = directory.with_name(f".{directory.name}.partial")
        self.scratch = self.partial / SCRATCH
        self.dropped: Counter[str] = Counter()
        self._kept = set(kept)
        if not directory.name:
            raise ConfigError(f"{str(directory)!r} is no name of a new directory")
        if directory.exists() or directory.is_symlink():
            raise ConfigError(f"{directory} exists, and a set is never written over another: name a new directory")

    def __enter__(self) -> Self:
        with as_store_error(self.partial):
            self.partial.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.partial, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                raise ConfigError(
                    f"another process writes {self.directory} now: wait for it, or name another directory"
                ) from None
            self._clear()
            self.scratch.mkdir()
            self._tasks = TableWriter(self.partial / TASKS_FILE, TASKS)
            self._dropped = TableWriter(self.partial / DROPPED_FILE, DROPPED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.partial.exists():  # it did not finish
            for writer in (self._tasks, self._dropped):
                with suppress(OSError, pa.ArrowException):  # the error that ended the stage is the one to tell
                    writer.close()
            self._clear()
            if not any(self.partial.iterdir()):
                self.partial.rmdir()
        os.close(self._lock)

    def write(self, batch: pa.RecordBatch, reasons: pa.Array, details: pa.Array | None = None) -> None:
        """Write rows of TASKS. A row with a reason goes to the dropped ones, any other (null) to the set. Raises StoreError."""
        with as_store_error(self.partial):
            if reasons.null_count == len(reasons):
                self._tasks.write(batch)
                return
            kept = pc.is_null(reasons)
            self._tasks.write(batch.filter(kept))
            details = pa.nulls(len(reasons), pa.string()) if details is None else details
            stage = pa.repeat(self.stage, len(reasons))
            whole = pa.record_batch([*batch.columns, stage, reasons, details], schema=DROPPED)
            self._dropped.write(whole.filter(pc.invert(kept)))
            for each in pc.value_counts(reasons.drop_null()).to_pylist():
                self.dropped[each["values"]] += each["counts"]

    def batches(self, tasks: Iterable[Task]) -> Iterator[pa.RecordBatch]:
        """Yield tasks as batches of TASKS, and take their files. Raises StoreError."""
        rest = iter(tasks)
        while some := list(itertools.islice(rest, TASKS_AT_ONCE)):
            yield to_batch([self._with_files(task) for task in some])

    def link_files(self, batch: pa.RecordBatch, root: Path) -> None:
        """Take the files that rows of another set name. They are shared with it, because nobody changes a set.

        Raises StoreError, and DataError for a file outside of that set.
        """
        for name in pc.unique(batch["files"].flatten()).to_pylist():
            path = PurePosixPath(name)
            if path.parts[:1] != (FILES,) or ".." in path.parts or not is_within(root / path, root):
                raise DataError(f"{root} names the file {name!r:.200}, which is not one of its own")
            with as_store_error(root / path):
                self._place(root / path, name, copy=_link)

    def finish(
        self, *, options: Mapping[str, Json], inputs: Sequence[Input], counts: Mapping[str, int] | None = None
    ) -> Manifest:
        """Write the manifest, and give the directory its name. Raises StoreError."""
        with as_store_error(self.partial):
            self._tasks.close()
            self._dropped.close()
            shutil.rmtree(self.scratch)
            manifest = Manifest(
                stage=self.stage,
                options=dict(options),
                inputs=tuple(inputs),
                rows_in=self._tasks.rows + self._dropped.rows,
                rows_out=self._tasks.rows,
                dropped=dict(sorted(self.dropped.items())),
                counts=dict(counts or {}),
                digest=file_digest(self.partial / TASKS_FILE),
            )
            write_manifest(self.partial, manifest)
            if self.directory.exists():
                raise ConfigError(f"{self.directory} has appeared meanwhile: name a new directory")
            self.partial.rename(self.directory)
        return manifest

    def _with_files(self, task: Task) -> Task:
        """Copy the files of a task into the set, and return the task with their paths relative to it."""
        if not task.files:
            return task
        names = []
        for file in map(Path, task.files):
            with as_store_error(file):
                names.append(f"{FILES}/{file_digest(file)[:16]}/{file.name}")
                self._place(file, names[-1], copy=shutil.copyfile)  # the user may change theirs
        return msgspec.structs.replace(task, files=tuple(names))

    def _place(self, file: Path, name: str, *, copy: Callable[[Path, Path], object]) -> None:
        place = self.partial / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            copy(file, place)

    def _clear(self) -> None:
        for each in self.partial.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            elif each.name not in self._kept:
                each.unlink()


def write_tasks(
    tasks: Iterable[Task], directory: Path, *, stage: str, options: Mapping[str, Json], inputs: Sequence[Input] = ()
) -> Manifest:
    """Write tasks as a set, a few at a time. Return its manifest. Raises ConfigError, StoreError."""
    with NewSet(directory, stage=stage) as new:
        for batch in new.batches(tasks):
            new.write(batch, pa.nulls(batch.num_rows, pa.string()))
        return new.finish(options=options, inputs=inputs)


def _link(file: Path, place: Path) -> None:
    try:
        place.hardlink_to(file)
    except OSError:  # another file system
        shutil.copyfile(file, place)
