"""Numeric match: the last number of an answer has the value of the gold number.

18, $18.00, 18 eggs, "it is 18."      match 18
1,200   1.2e3   1200.0                match 1,200
½                                     matches 0.5; 0.333 does not match 1/3
5 km                                  matches 5, but not 5 miles: a unit or currency that one side leaves out is no difference
"16 + 2 = 18"                         matches 18, not 16: an answer counts as its last number
"""

from lzero.rewards.numbers import Number, find, plain, unwrapped
from lzero.rewards.signs import marked
from lzero.types import Task


def numeric(answer: str, task: Task) -> float:
    """Return 1 if the last number of the answer equals a gold answer that is one number, else 0."""
    found = _numbers(answer)
    golds = [number for gold in task.answers if (number := number_of(gold)) is not None]
    return float(bool(found) and any(_equal(found[-1], gold) for gold in golds))


def number_of(text: str) -> Number | None:
    """Return the number of a text that holds one; None for none or several."""
    found = _numbers(text)
    return found[0] if len(found) == 1 else None


def _numbers(text: str) -> list[Number]:
    return list(find(unwrapped(plain(marked(text))), is_list=False, by_value=True))


def _equal(one: Number, other: Number) -> bool:
    agree = all(not a or not b or a == b for a, b in ((one.unit, other.unit), (one.currency, other.currency)))
    return agree and _value(one) == _value(other)


def _value(number: Number) -> str:
    """Return the one spelling of a number's value, even after a word that may be a name (Python 3.10)."""
    return next((alone.value for alone in find(number.value, is_list=False, by_value=True)), number.value)
