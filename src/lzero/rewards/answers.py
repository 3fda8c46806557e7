"""Score an answer in any script against a gold answer and its aliases: exact match, token F1, containment.

The rules are those of SQuAD's official script (lower case, punctuation and articles removed), extended beyond plain English. Letters of any
script count; accents do not. An answer of articles or punctuation alone ("The The", "A", "+") is not changed. A sign that is an operator is
kept: -x, A+, C++, ¬p (`lzero.rewards.signs`). Numbers are compared by value, with their signs and units (`lzero.rewards.numbers`), or with
`numbers="text"` by their digits. A list matches with and without its brackets.

`match="ascii"` compares by L0's rule instead: lower case, and everything outside a–z and 0–9 deleted (spaces too; F1 keeps words apart).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from lzero.rewards.numbers import Number, find, plain, unwrapped
from lzero.rewards.ordinary import ARTICLES, ordinary
from lzero.rewards.signs import after_number, is_between, marked, parted
from lzero.text import fold, words

Match = Literal["unicode", "ascii"]
Numbers = Literal["value", "text"]

CACHED_CHARS = 200
"""The longest answer whose form is kept for the next score of the same answer, or of another one to the same task."""
CACHED_FORMS = 32_768
"""Number of forms in the cache: gold answers and predictions recur with each sample and scorer. About 100 MB if each has CACHED_CHARS
characters."""
LONG_FORMS = 4
"""Forms of longer answers that are kept, because several scores of one answer follow one another."""
_COMPARISONS = frozenset({"<", ">", "<=", ">=", "!="})
_SIGNS = ("-\\", "+\\")
"""Operators between words, as a form writes them; a lone dash is punctuation."""
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[^\w\s.](?=\d)")
_VARIABLE = re.compile(r"[ijkntxyz](?![^\W_])")
_HAS_NUMBER = re.compile(r"\d|\A[-+±]? ?(?:inf|infinity|pi)\Z")
_NOT_ASCII = re.compile(r"[^a-z0-9]")


class _Form(Struct, frozen=True, gc=False):
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
    """Return the form in which answers are compared, without currencies.

    `normalize("The  Beyoncé!") == "beyonce"`, `normalize("(-1,234.50 €)") == "-1234.5"`. A blank answer has an empty form; by L0's rule
    others may have one, too.
    """
    return _ascii(answer) if match == "ascii" else _form(answer, numbers).text


def exact_match(prediction: str, golds: Iterable[str], *, match: Match = "unicode", numbers: Numbers = "value") -> bool:
    """Return whether the prediction equals a gold answer after normalisation. A blank prediction never does."""
    if match == "ascii":
        return prediction.strip() != "" and any(_ascii(prediction) == _ascii(gold) for gold in golds)
    form = None
    for gold in golds:
        if gold == prediction:
            if gold.strip():
                return True
            continue
        if form is None:
            form = _form(prediction, numbers)
        if form.matches(_form(gold, numbers)):
            return True
    return False


def f1(prediction: str, golds: Iterable[str], *, match: Match = "unicode", numbers: Numbers = "value") -> float:
    """Return the best token F1 with a gold answer, 0 to 1.

    Repeated tokens count. A character of an unspaced script is a token; a number with its sign is one, and its unit another.
    """
    if match == "ascii":
        predicted = _ascii_tokens(prediction)
        return max((_overlap(predicted, _ascii_tokens(gold)) for gold in golds), default=0.0)
    form = _form(prediction, numbers)
    best = 0.0
    for gold in golds:
        if (overlap := _form_overlap(form, _form(gold, numbers))) > best:
            best = overlap
    return best


def contains(prediction: str, golds: Iterable[str], *, match: Match = "unicode", numbers: Numbers = "value") -> bool:
    """Return whether the tokens of a gold answer stand in the prediction, one after another; those of a blank gold answer never do."""
    tokens = _ascii_tokens(prediction) if match == "ascii" else _form(prediction, numbers).tokens
    return any(
        _runs_through(tokens, _ascii_tokens(gold) if match == "ascii" else _form(gold, numbers).tokens)
        for gold in golds
    )


def _runs_through(tokens: Sequence[str], run: Sequence[str]) -> bool:
    """Return whether the tokens contain the run. Compares texts of one token a line, because Python searches texts in linear time."""
    return bool(run) and _in_lines(run) in _in_lines(tokens)


def _in_lines(tokens: Sequence[str]) -> str:
    return "\n".join(("", *tokens, ""))


def _form(answer: str, numbers: Numbers) -> _Form:
    return _cached_form(answer, numbers) if len(answer) <= CACHED_CHARS else _long_form(answer, numbers)


def _new_form(answer: str, numbers: Numbers) -> _Form:
    found = ordinary(answer)
    return _any_form(answer, numbers) if found is None else _Form(*found)


_cached_form = lru_cache(maxsize=CACHED_FORMS)(_new_form)
_long_form = lru_cache(maxsize=LONG_FORMS)(_new_form)


def _any_form(answer: str, numbers: Numbers) -> _Form:
    """Return the form of an answer by all rules."""
    signed = marked(answer)
    if _HAS_NUMBER.search(text := plain(signed)):
        return _form_with_numbers(text, by_value=numbers == "value")
    folded = fold(signed)
    without_articles = list(_kept_words(folded, comparisons=False))
    all_words = without_articles or [word for token in folded.split() for word in _squad_words(token)]
    kept = all_words or folded.split() or answer.casefold().split()
    return _Form(text=" ".join(kept), tokens=tuple(token for word in kept for token in _pieces(word)))


def _form_with_numbers(text: str, *, by_value: bool) -> _Form:
    inner = unwrapped(text)
    pieces: list[str] = []
    tokens: list[str] = []
    currencies = set()
    end = 0
    was_number = False
    for number in (*find(inner, is_list=inner != text, by_value=by_value), None):
        between = inner[end : len(inner) if number is None else number.start]
        if was_number and (sign := after_number(between)):
            pieces[-1] += sign
            tokens[-1] += sign
        gap = list(_kept_words(between, comparisons=True))
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


def _kept_words(text: str, *, comparisons: bool) -> Iterator[str]:
    """Yield the words of a text without numbers: no articles, but operators with their terms and, if asked, comparison signs."""
    tokens = text.split()
    if not tokens or "".join(tokens).isalpha():
        yield from (token for token in tokens if token not in ARTICLES)
        return
    found = ["", *tokens, "", ""]
    squad = [_squad_words(token) for token in found]
    after_sign = False
    for index, word in enumerate(found[1:-2], start=1):
        before, after = found[index - 1], found[index + 1]
        is_before_variable = comparisons and word in ("-", "+") and _VARIABLE.match(after)
        is_comparison = comparisons and (word in _COMPARISONS or (word in ("=", "^") and _VARIABLE.fullmatch(before)))
        is_operator = word in ("-", "+") and is_between(before, after)
        if is_before_variable or is_comparison:
            yield word
        elif is_operator:
            is_plain = is_between(" ".join(squad[index - 1]), " ".join(squad[index + 1]))
            yield word if is_plain else f"{word}\\"
        else:
            is_term = after_sign or after in _SIGNS or (after in ("-", "+") and is_between(word, found[index + 2]))
            yield from (kept for kept in squad[index] if is_term or kept not in ARTICLES)
        after_sign = bool(is_operator or is_before_variable or word in _SIGNS)


def _squad_words(token: str) -> list[str]:
    """Return the words of a token: punctuation is deleted, or separates digits; a decimal point and a sign of a word stay."""
    if token.isalpha() or not token:
        return [token] if token else []
    before, word, after = parted(token)
    spaced = _BETWEEN_DIGITS.sub(" ", word)
    kept = "".join(
        letter for index, letter in enumerate(spaced) if _is_text(letter) or _is_point(spaced, index)
    ).split()
    if kept and parted(kept[-1] + after)[2] == after:
        kept[-1] += after
    if before and kept and parted(before + kept[0])[0] == before and len(before) == 1:
        kept[0] = before + kept[0]
    elif before:
        kept.insert(0, before if len(before) > 1 else f"{before}\\")
    return kept


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
    """Return L0's form, with its faults: `_ascii("Beyoncé") == "beyonc"`, and an answer in another script becomes empty."""
    return _NOT_ASCII.sub("", answer.lower())


def _ascii_tokens(answer: str) -> list[str]:
    return [token for word in answer.split() if (token := _ascii(word))]


def _overlap(predicted: Sequence[str], gold: Sequence[str]) -> float:
    if predicted == gold:
        return 1.0 if predicted else 0.0
    different = set(gold)
    num_common = len(different.intersection(predicted))
    if num_common and len(different) < len(gold):  # a token counts as often as it is in both
        num_common = (Counter(predicted) & Counter(gold)).total()
    return 2 * num_common / (len(predicted) + len(gold)) if num_common else 0.0


def _is_text(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNMZ" or character.isspace()


def _is_point(text: str, index: int) -> bool:
    return (
        text[index] == "." and text[index + 1 : index + 2].isdigit() and (index == 0 or not text[index - 1].isalpha())
    )
