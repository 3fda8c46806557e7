"""Scores of one answer, by name: `reward.score = "gaia"`.

A score is a pure function of an answer and its task, from 0 to 1. A blank answer scores 0. A new one is a file here and a line of KNOWN; a
user's is named by its import path.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lzero.plugins import find_plugin
from lzero.rewards.scores import fits
from lzero.types import Task

AnswerScore = Callable[[str, Task], float]


@dataclass(frozen=True)
class Known:
    """A score that lzero has."""

    path: str
    """Its import path."""
    fits: Callable[[Task], bool]
    """Return whether the score has a meaning for a task."""
    is_quick: bool = True
    """Whether it takes well below a millisecond for a short answer."""


KNOWN = {
    "em": Known("lzero.rewards.scores.texts:em", fits.any_task),
    "f1": Known("lzero.rewards.scores.texts:f1", fits.any_task),
    "contains": Known("lzero.rewards.scores.texts:contains", fits.any_task),
    "numeric": Known("lzero.rewards.scores.numeric:numeric", fits.a_number),
    "math": Known("lzero.rewards.scores.mathematical:mathematical", fits.mathematics, is_quick=False),
    "gaia": Known("lzero.rewards.scores.gaia:gaia", fits.gaia),
}
"""Name → score. `docs/evaluation.md` has the rule of each."""


def find_score(name: str, *, key: str = "reward.score") -> AnswerScore:
    """Return the score that `name`, the value of the configuration's `key`, selects: one of KNOWN, or an import path of the user's.

    Raises ConfigError for an unknown name, and for a library that is not installed.
    """
    score: AnswerScore = find_plugin(name, {known: score.path for known, score in KNOWN.items()}, key=key)
    return score


def fitting(task: Task) -> list[str]:
    """Return the names of KNOWN that have a meaning for a task; none without a gold answer."""
    return [name for name, score in KNOWN.items() if task.answers and score.fits(task)]


def reward_key(scorer: str) -> str:
    """Return the configuration's key that selects a scorer by its name: "reward.score" for one of an answer, else "reward.function"."""
    return "reward.score" if scorer in KNOWN else "reward.function"
