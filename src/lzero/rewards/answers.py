"""Exact match and token F1 of an answer, in any script, against a gold answer and its aliases.

The rules are those of SQuAD's official script (lower case, punctuation and articles removed), extended beyond plain
English: letters of any script count, accents do not; an answer made of articles or punctuation alone
("The The", "A", "+") stays as it is. Numbers are compared by value, with their signs and units (`lzero.rewards.numbers`),
or with `numbers="text"` by their digits. A list matches with and without its brackets.

`match="ascii"` compares by L0's rule instead: lower case, and everything outside a–z and 0–9 deleted (spaces too; F1 keeps words apart).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lzero.rewards.numbers import Number, find, plain, unwrapped
from lzero.text import fold, words

Match = Literal["unicode", "ascii"]
Numbers = Literal["value", "text"]

_ARTICLES = frozenset({"a", "an", "the"})
_COMPARISONS = frozenset({"<", ">", "<=", ">=", "!="})
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[^\w\s.](?=\d)")
_VARIABLE = re.compile(r"[ijkntxyz](?![^\W_])")
_HAS_NUMBER = re.compile(r"\d|\A[-+±]? ?(?:inf|infinity|pi)\Z")
_NOT_ASCII = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True)
class _Form:
    """Normalised form of an answer."""

    text: str
    tokens: tuple[str, ...]
    currencies: frozenset[str] = frozenset()

    def matches(self, other: "_Form") -> bool:
        """Return whether two answers match. A currency that only one of them names is ignored."""
        return self.text == other.text != "" and not self.differ_in_currency(other)

    def differ_in_currency(self, other: "_Form") -> bool:
        return bool(self.currencies and other.currencies) and self.currencies != other.currencies


def normalize(answer: str, *, match: Match = "unicode", numbers: Numbers = "value") -> str:
    """Return the form in which answers are compared, without currencies: `normalize("The  Beyoncé!") == "beyonce"`,
    `normalize("(-1,234.50 €)") == "-1234.5"`. Blank answers have an empty form; by L0's rule others have, too."""
    return _ascii(answer) if match == "ascii" else _form(answer, numbers).text


def exact_match(prediction: str, golds: Iterable[str], *, match: Match = "unicode", numbers: Numbers = "value") -> bool:
    """Return whether the prediction equals a gold answer after normalisation. A blank prediction never does."""
    if match == "ascii":
        return prediction.strip() != "" and any(_ascii(prediction) == _ascii(gold) for gold in golds)
    form = _form(prediction, numbers)
    return any(form.matches(_form(gold, numbers)) for gold in golds)


def f1(prediction: str, golds: Iterable[str], *, match: Match = "unicode", numbers: Numbers = "value") -> float:
    """Return the best token F1 with a gold answer, 0 to 1.

    Repeated tokens count. A character of an unspaced script is a token; a number with its sign is one, and its unit another.
    """
    if match == "ascii":
        predicted = _ascii_tokens(prediction)
        return max((_overlap(predicted, _ascii_tokens(gold)) for gold in golds), default=0.0)
    form = _form(prediction, numbers)
    return max((_form_overlap(form, _form(gold, numbers)) for gold in golds), default=0.0)


def _form(answer: str, numbers: Numbers) -> _Form:
    folded = fold(answer)
    if _HAS_NUMBER.search(text := plain(answer)):
        return _form_with_numbers(text, by_value=numbers == "value")
    all_words = [word for token in folded.split() for word in _squad_words(token)]
    without_articles = [word for word in all_words if word not in _ARTICLES]
    kept = without_articles or all_words or folded.split() or answer.casefold().split()
    return _Form(text=" ".join(kept), tokens=tuple(token for word in kept for token in _pieces(word)))


def _form_with_numbers(text: str, *, by_value: bool) -> _Form:
    inner = unwrapped(text)
    pieces: list[str] = []
    tokens: list[str] = []
    currencies = set()
    end = 0
    was_number = False
    for number in (*find(inner, is_list=inner != text, by_value=by_value), None):
        gap = list(_gap_words(inner[end : len(inner) if number is None else number.start]))
        tokens += (token for word in gap for token in _pieces(word))
        if number is not None:
            operator = [number.operator] if number.operator and (pieces or gap) else []
            if was_number and not (gap or operator):
                pieces[-1] += ","
            pieces += [*gap, *operator, number.form]
            tokens += [*operator, *_number_tokens(number)]
            currencies |= {number.currency} - {""}
            end, was_number = number.end, True
        else:
            pieces += gap
    kept = pieces or text.split()
    return _Form(text=" ".join(kept), tokens=tuple(tokens or kept), currencies=frozenset(currencies))


def _gap_words(gap: str) -> Iterator[str]:
    """Yield the words between two numbers, without articles, but with comparison signs and the signs next to a variable."""
    found = gap.split()
    for before, word, after in zip(["", *found], found, [*found[1:], ""], strict=False):
        is_sign = word in ("-", "+") and _VARIABLE.match(after)
        is_equation = word == "=" and _VARIABLE.fullmatch(before)
        if word in _COMPARISONS or is_sign or is_equation:
            yield word
        else:
            yield from (kept for kept in _squad_words(word) if kept not in _ARTICLES)


def _squad_words(token: str) -> list[str]:
    """Return the words of a token: punctuation is deleted, or separates digits; a decimal point stays."""
    parted = _BETWEEN_DIGITS.sub(" ", token)
    kept = (character for index, character in enumerate(parted) if _is_text(character) or _is_point(parted, index))
    return "".join(kept).split()


def _number_tokens(number: Number) -> list[str]:
    return [*number.value.split(", "), *number.unit.split()]


def _pieces(word: str) -> list[str]:
    found = words(word)
    return found if "".join(found) == word else [word]


def _form_overlap(predicted: _Form, gold: _Form) -> float:
    if predicted.differ_in_currency(gold):
        return _overlap([*predicted.tokens, *predicted.currencies], [*gold.tokens, *gold.currencies])
    return _overlap(predicted.tokens, gold.tokens)


def _ascii(answer: str) -> str:
    """L0's form, faults included: `_ascii("Beyoncé") == "beyonc"`, and an answer in another script is empty."""
    return _NOT_ASCII.sub("", answer.lower())


def _ascii_tokens(answer: str) -> list[str]:
    return [token for word in answer.split() if (token := _ascii(word))]


def _overlap(predicted: Sequence[str], gold: Sequence[str]) -> float:
    num_common = (Counter(predicted) & Counter(gold)).total()
    return 2 * num_common / (len(predicted) + len(gold)) if num_common else 0.0


def _is_text(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNMZ" or character.isspace()


def _is_point(text: str, index: int) -> bool:
    return (
        text[index] == "." and text[index + 1 : index + 2].isdigit() and (index == 0 or not text[index - 1].isalpha())
    )
