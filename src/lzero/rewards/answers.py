"""Does an answer match? Exact match and token F1, in any script, against a gold answer and its aliases.

The rules of SQuAD's official script (lower case, punctuation and articles removed), with what it gets wrong outside
plain English mended: letters of any script count, accents do not; digits never merge into another number
("3.5" is not "35", "1990-1995" is "1990–1995"); an answer made of articles or punctuation alone ("The The", "A", "+") stays itself.

`match="ascii"` compares by L0's rule instead: lower case, and everything outside a–z and 0–9 deleted (spaces too; F1 keeps words apart).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from lzero.text import fold, words

Match = Literal["unicode", "ascii"]

_ARTICLES = frozenset({"a", "an", "the"})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[^\w\s.](?=\d)")
_NOT_ASCII = re.compile(r"[^a-z0-9]")
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
    return sign + " ".join(without_articles or all_words or folded.split() or answer.casefold().split())


def exact_match(prediction: str, golds: Iterable[str], *, match: Match = "unicode") -> bool:
    """Whether the prediction is one of the gold answers, normalised. A blank prediction never is."""
    if match == "ascii":
        return prediction.strip() != "" and any(_ascii(prediction) == _ascii(gold) for gold in golds)
    normalized = normalize(prediction)
    return normalized != "" and any(normalized == normalize(gold) for gold in golds)


def f1(prediction: str, golds: Iterable[str], *, match: Match = "unicode") -> float:
    """The best token F1 with a gold answer, 0 to 1. Tokens are counted with repeats; a character of an unspaced script is one."""
    tokens_of = _ascii_tokens if match == "ascii" else _tokens
    predicted = tokens_of(prediction)
    return max((_overlap(predicted, tokens_of(gold)) for gold in golds), default=0.0)


def _ascii(answer: str) -> str:
    """L0's form, faults included: `_ascii("Beyoncé") == "beyonc"`, and an answer in another script is empty."""
    return _NOT_ASCII.sub("", answer.lower())


def _ascii_tokens(answer: str) -> list[str]:
    return [token for word in answer.split() if (token := _ascii(word))]


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
