"""A short way to the normalised form of ordinary answers: names, words, dates and whole numbers in plain English letters.

`lzero.rewards.answers` has the rules, for everything that an answer may hold. Here are only answers to which few of them apply; for any
other the result is None. The form is the same, about twenty times sooner.

    "The Beatles", "Łódź", "Jean-Luc Picard", "U.S."            letters, with punctuation that counts for nothing
    "May 5, 1990", "1,234 people", "the 7th", "the 1980s"         words and whole numbers, without units, currencies and signs
"""

import re

from lzero.rewards.units import NAMES_OF_UNITS
from lzero.text import fold

ARTICLES = frozenset({"a", "an", "the"})

_PUNCTUATION = ".,'\"!?;:()&‘’“”"
_LETTERS = re.compile(rf"[A-Za-zÀ-ÖØ-öø-ſ \xa0{_PUNCTUATION}-]+")
_DIGIT = re.compile(r"[0-9]")
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})")
_DELETED = str.maketrans("", "", _PUNCTUATION)
_NUMBERS = frozenset({"inf", "infinity", "pi"})
"""Words that are numbers."""
_TOKEN = re.compile(
    r"(?:(?P<word>[a-z]+(?:\.[a-z]+)*)|(?P<number>0|[1-9]\d{0,14}|[1-9]\d{0,2}(?:,\d{3}){1,4})(?P<suffix>st|nd|rd|th|s)?)(?P<comma>[.,]?)",
    re.ASCII,
)
_MEGA = frozenset(f"m{unit}" for unit in ("w", "wh", "v", "j", "pa", "hz", "ev", "n"))
_NEAR_NUMBERS = (
    NAMES_OF_UNITS
    | _NUMBERS
    | _MEGA
    | frozenset({"thousand", "million", "billion", "trillion", "minus", "negative", "sqrt", "per"})
)
"""Words that mean something else beside a number."""


def ordinary(answer: str) -> tuple[str, tuple[str, ...]] | None:
    """Return (text, tokens) of the form of an ordinary answer; None for any other.

    `ordinary("The Beatles!") == ("beatles", ("beatles",))`, `ordinary("May 5, 1990") == ("may 5, 1990", ("may", "5", "1990"))`.
    """
    is_ascii = answer.isascii()
    if _DIGIT.search(answer) is None and (is_ascii or _LETTERS.fullmatch(answer)):
        text = _HYPHEN.sub("", answer) if "-" in answer else answer
        words = (text.lower() if is_ascii else fold(text)).translate(_DELETED).split()
        joined = "".join(words)
        if joined.isalpha() and joined.isascii():
            return _of_words(words)
    text = answer if is_ascii else answer.replace("\xa0", " ")
    return _with_numbers(text.lower()) if text.isascii() else None


def _of_words(words: list[str]) -> tuple[str, tuple[str, ...]] | None:
    if not ARTICLES.isdisjoint(words):
        words = [word for word in words if word not in ARTICLES]
    return (" ".join(words), tuple(words)) if words and _NUMBERS.isdisjoint(words) else None


def _with_numbers(text: str) -> tuple[str, tuple[str, ...]] | None:
    pieces: list[str] = []
    tokens: list[str] = []
    after_number = is_adjacent = False
    for part in text.split():
        found = _TOKEN.fullmatch(part)
        if found is None:
            return None
        word = found["word"]
        if word is None:
            if is_adjacent:
                return None  # 5 123 is 5123
            number, suffix = found["number"].replace(",", ""), found["suffix"]
            if after_number:
                pieces[-1] += ","
            pieces.append(f"{number}{suffix or ''}")
            tokens += [number, suffix] if suffix else [number]
            after_number, is_adjacent = True, not (suffix or found["comma"])
            continue
        if (len(word) == 1 and word != "a") or not _NEAR_NUMBERS.isdisjoint(word.split(".")):
            return None
        word = word.replace(".", "")
        is_adjacent = False
        if word not in ARTICLES:
            pieces.append(word)
            tokens.append(word)
            after_number = False
    return (" ".join(pieces), tuple(tokens)) if tokens else None
