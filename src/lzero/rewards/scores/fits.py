"""Which scores have a meaning for a task."""

import importlib.util

from lzero.extras import EXTRAS
from lzero.rewards.scores.numeric import number_of
from lzero.types import Task


def any_task(task: Task) -> bool:
    return True


def a_number(task: Task) -> bool:
    """Return whether the first gold answer is one number."""
    return number_of(task.answers[0]) is not None


def mathematics(task: Task) -> bool:
    """Return whether the task is one of mathematics, and the extra `math` is installed."""
    return task.ability == "math" and all(importlib.util.find_spec(name) for name in EXTRAS["math"])


def gaia(task: Task) -> bool:
    """Return whether the task comes from GAIA."""
    return task.source.lower().partition("/")[0] == "gaia"
