"""Scores of answers as texts: exact match, token F1, and whether a gold answer stands in the answer."""

from lzero.rewards import answers
from lzero.types import Task


def em(answer: str, task: Task) -> float:
    """Return 1 if the answer equals a gold answer after normalisation."""
    return float(answers.exact_match(answer, task.answers))


def f1(answer: str, task: Task) -> float:
    """Return the best token F1 with a gold answer."""
    return answers.f1(answer, task.answers)


def contains(answer: str, task: Task) -> float:
    """Return 1 if the words of a gold answer stand in the answer, one after another."""
    return float(answers.contains(answer, task.answers))
