"""GAIA's own rule (the scorer of its leaderboard; Mialon et al. 2023, arXiv 2311.12983).

A gold answer that Python reads as a number is compared as one: `$`, `%` and `,` are deleted from the answer. One with a comma or semicolon
is a list: the answer needs as many elements, and each must match, numbers as numbers, texts without case and white space. Any other is
compared without case, white space and ASCII punctuation.

Two cases differ from the leaderboard's scorer, which counts an answer that is no number as infinity: here it matches no number. And a blank
answer scores 0, whatever the gold answer is.
"""

import re
import string

from lzero.types import Task

_DELETED = str.maketrans("", "", "$%,")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SEPARATOR = re.compile("[,;]")


def gaia(answer: str, task: Task) -> float:
    """Return 1 if the answer matches a gold answer by GAIA's rule, else 0."""
    return float(answer.strip() != "" and any(_matches(answer, gold) for gold in task.answers))


def _matches(answer: str, gold: str) -> bool:
    if _number(gold) is not None:
        return _number(answer.translate(_DELETED)) == _number(gold)
    if _SEPARATOR.search(gold) is None:
        return _squeezed(answer).translate(_PUNCTUATION) == _squeezed(gold).translate(_PUNCTUATION)
    found, wanted = _SEPARATOR.split(answer), _SEPARATOR.split(gold)
    return len(found) == len(wanted) and all(map(_elements_match, found, wanted))


def _elements_match(element: str, gold: str) -> bool:
    if (number := _number(gold)) is not None:
        return _number(element.translate(_DELETED)) == number
    return _squeezed(element) == _squeezed(gold)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _squeezed(text: str) -> str:
    return "".join(text.split()).lower()
