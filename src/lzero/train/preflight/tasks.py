"""Check the tasks: that they can be read, and that no held-out question is trained on."""

from collections.abc import Iterator

from lzero.data.sources import leaks, reading_notes
from lzero.engine.kinds import Finding
from lzero.errors import LzeroError
from lzero.text import counted
from lzero.train.preflight.subject import SPLITS, Split, Subject


def check_tasks(subject: Subject) -> Iterator[Finding]:
    """Check that task files can be read and that each row is a task."""
    for split in SPLITS:
        name = f"tasks.{split}: {getattr(subject.config.tasks, split)}"
        try:
            yield Finding(name, _counts(subject, split))
        except LzeroError as error:
            yield Finding(name, "not checked", (str(error),))


def _counts(subject: Subject, split: Split) -> str:
    tasks = subject.tasks(split)
    number = f"{len(tasks):,} of endless tasks" if subject.is_endless(split) else counted(len(tasks), "task")
    parts = [number, counted(sum(len(task.answers) for task in tasks), "gold answer")]
    if files := {file for task in tasks for file in task.files}:
        parts.append(counted(len(files), "file"))
    return ", ".join(parts) + "".join(f"; {note}" for note in filter(None, [reading_notes(subject.source(split))]))


def check_leaks(subject: Subject) -> Iterator[Finding]:
    """Check that no held-out question is trained on."""
    leaked = leaks(subject.source("train"), subject.source("eval"))
    problems = [
        f"eval: {held_out.id}: the question of train's {train.id}; take it out of one of them, or ask it differently"
        for train, held_out in leaked
    ]
    yield Finding("asked in both", counted(len(leaked), "question"), problems)
