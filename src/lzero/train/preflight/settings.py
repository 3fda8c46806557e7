"""Check the settings, and the tools and scenes that they name. These checks need no model."""

from collections.abc import Iterator

from lzero.engine.kinds import Finding
from lzero.rollout.curriculum import check_curriculum
from lzero.rollout.deadline import budgets_line
from lzero.text import counted
from lzero.train.checks import check_settings, inert_settings
from lzero.train.preflight.subject import SPLITS, Subject
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
