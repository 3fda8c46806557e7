"""Files of the questions that an evaluation under way has finished, so that an interrupted one resumes with the others.

    questions/eval-000000.jsonl      a line for each finished question of the greedy evaluation of policy version 0

A question is written before it counts. The files are removed when the evaluation is recorded, unless questions failed: then
`lzero eval --resume` runs those again. A line that a kill or a copy has cut is left out, and only its question runs again.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from lzero.errors import StoreError
from lzero.paths import file_problem
from lzero.rollout.failures import TaskFailures
from lzero.store import Phase, Record
from lzero.store.record import encode_with
from lzero.store.run_directory import QUESTIONS
from lzero.store.writing import append_whole, as_store_error
from lzero.types import Task

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 30
"""Longest line that is read."""


class Finished(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question that was run: the task at a `position` of the source, with its episodes and rewards."""

    position: int
    record: Record
    """Its task has the names of its files, not their paths."""
    failures: TaskFailures
    judge: dict[str, float]
    """The judge's counts since the line before."""
    seconds: float
    """Seconds of the evaluation until then, those before an interruption included."""

    @property
    def is_failed(self) -> bool:
        return any(reward is None for reward in self.record.rewards)


class FinishedQuestions:
    """Finished questions of one phase of the evaluation of a policy version, in a run's directory. All methods raise StoreError."""

    def __init__(self, run: Path, phase: Phase, update: int) -> None:
        self.file = run / QUESTIONS / f"{phase}-{update:06d}.jsonl"

    def exists(self) -> bool:
        return self.file.exists()

    def add(self, question: Finished) -> None:
        """Append a question."""
        append_whole(self.file, encode_with(question.record, question) + b"\n")

    def open(self) -> list[Finished]:
        """Return the questions that are there, in the order of writing, and prepare the file for more.

        Logs a warning that names each line that cannot be read. Removes a last line that a kill has cut.
        """
        with as_store_error(self.file):
            self.file.parent.mkdir(exist_ok=True)
            if not self.exists():
                self.file.touch()
                return []
            if problem := file_problem(self.file):
                raise StoreError(f"cannot read {self.file}: {problem}")
            found, whole_bytes = self._read()
            if whole_bytes < self.file.stat().st_size:
                with self.file.open("r+b") as opened:
                    opened.truncate(whole_bytes)
        return found

    def _read(self) -> tuple[list[Finished], int]:
        """Return the questions, and the size in bytes of all complete lines."""
        found: list[Finished] = []
        size = 0
        for number, line in enumerate(_lines(self.file), 1):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("it was cut")
                found.append(msgspec.json.decode(line, type=Finished))
            except (ValueError, RecursionError, msgspec.MsgspecError) as error:
                logger.warning("%s, line %d is damaged (%s): its question runs again", self.file, number, error)
            size += len(line) if line.endswith(b"\n") else 0
        return found, size

    def remove(self) -> None:
        """Remove the file, and the directory if that was the last one."""
        with as_store_error(self.file):
            self.file.unlink(missing_ok=True)
            if self.file.parent.is_dir() and not any(self.file.parent.iterdir()):
                self.file.parent.rmdir()


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while line := opened.readline(MAX_LINE_BYTES):
            yield line


def without_paths(task: Task) -> Task:
    """Return the task with the names of its files only. Two that are equal then are the same question."""
    return msgspec.structs.replace(task, files=tuple(Path(file).name for file in task.files)) if task.files else task
