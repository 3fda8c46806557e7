"""Does an answer match? Exact match and token F1, in any script, against a gold answer and its aliases.

The rules of SQuAD's official script (lower case, punctuation and articles removed), with what it gets wrong outside
plain English mended: letters of any script count, accents do not; digits never merge into another number
("3.5" is not "35", "1990-1995" is "1990–1995"); an answer made of articles or punctuation alone ("The The", "A", "+") stays itself.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from lzero.text import fold, words

_ARTICLES = frozenset({"a", "an", "the"})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[^\w\s.](?=\d)")
_NEGATIVE = re.compile(r"^\s*[-\u2212\u2013](?=[\d.])")


def normalize(answer: str) -> str:
    """The form in which answers are compared: `normalize("The  Beyoncé!") == "beyonce"`, `normalize("-1,234.50") == "-1234.50"`."""
    folded = fold(answer)
    sign = "-" if _NEGATIVE.search(folded) else ""
    numbers = _BETWEEN_DIGITS.sub(" ", _THOUSANDS.sub("", folded))
    kept = "".join(
        character for index, character in enumerate(numbers) if _is_text(character) or _is_point(numbers, index)
    )
    all_words = kept.split()
    without_articles = [word for word in all_words if word not in _ARTICLES]
    return sign + " ".join(without_articles or all_words or folded.split())


def exact_match(prediction: str, golds: Iterable[str]) -> bool:
    """Whether the prediction is one of the gold answers, normalised. A blank prediction never is."""
    normalized = normalize(prediction)
    return normalized != "" and any(normalized == normalize(gold) for gold in golds)


def f1(prediction: str, golds: Iterable[str]) -> float:
    """The best token F1 with a gold answer, 0 to 1. Tokens are counted with repeats; a character of an unspaced script is one."""
    predicted = _tokens(prediction)
    return max((_overlap(predicted, _tokens(gold)) for gold in golds), default=0.0)


def _tokens(answer: str) -> list[str]:
    tokens = []
    for word in normalize(answer).split():
        pieces = words(word)
        tokens += pieces if "".join(pieces) == word else [word]  # "3.5" and "-5" stay whole
    return tokens


def _overlap(predicted: list[str], gold: list[str]) -> float:
    num_common = (Counter(predicted) & Counter(gold)).total()
    return 2 * num_common / (len(predicted) + len(gold)) if num_common else 0.0


def _is_text(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNMZ" or character.isspace()


def _is_point(text: str, index: int) -> bool:
    return (
        text[index] == "." and text[index + 1 : index + 2].isdigit() and (index == 0 or not text[index - 1].isalpha())
    )
