"""Check the settings, the tasks and the corpus. These checks need no model."""

from collections.abc import Iterator

from lzero.data.sources import leaks, reading_notes
from lzero.engine.kinds import Finding
from lzero.errors import LzeroError
from lzero.rollout.curriculum import check_curriculum
from lzero.rollout.deadline import budgets_line
from lzero.text import counted
from lzero.train.checks import check_settings, inert_settings
from lzero.train.preflight.subject import SPLITS, Split, Subject
from lzero.train.trackers import check_trackers


def check_combinations(subject: Subject) -> Iterator[Finding]:
    """Check that settings do not contradict each other and that trackers are installed."""
    check_settings(subject.config)
    check_trackers(subject.config)
    check_curriculum(subject.config.rollout, subject.source("train"))
    notes = inert_settings(subject.config)
    yield Finding("settings", "; ".join(notes) or "all have an effect")
    yield Finding("budgets of an episode", budgets_line(subject.config))


def check_tools(subject: Subject) -> Iterator[Finding]:
    """Check that tools and environment can be opened, and that the prompt template renders."""
    tools = subject.scenes.tools
    yield Finding("agent.tools", ", ".join(tool.name for tool in tools) or counted(0, "tool"))


def check_scenes(subject: Subject) -> Iterator[Finding]:
    """Check that the environment opens a scene of the first task of each split, with usable tools, and returns its outcome."""
    environment = subject.scenes.environment
    tells_its_name = type(environment).__str__ is not object.__str__
    name = str(environment) if tells_its_name else subject.config.environment.use
    for split in SPLITS:
        scene = subject.rehearsal(subject.tasks(split)[0])
        names = ", ".join(tool.name for tool in scene.tools)
        yield Finding(f"environment, {split}: {name}", names or counted(0, "tool"))


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
