"""Normalise text for search and scoring (without case and accents, as words), and for messages (on one line, counted).

Any language; no dependencies.
"""

import functools
import re
import unicodedata

_SURROGATES = re.compile(r"[\ud800-\udfff]")
_ACCENTS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
# Letters that carry a stroke or a ligature and that Unicode does not decompose.
_LETTERS = str.maketrans(
    {"ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ł": "l", "ŧ": "t", "æ": "ae", "œ": "oe", "þ": "th"}
)
# Scripts written without spaces (Han, kana, Thai, Lao, Khmer, Myanmar): each character is a word, with the marks it carries.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_MARKS = "".join(
    character for character in map(chr, range(0x0300, 0xFE30)) if unicodedata.category(character) in ("Mn", "Mc")
)
_WORD = re.compile(rf"[{_UNSPACED}][{_MARKS}]*|(?:[^\W_{_UNSPACED}][{_MARKS}]*)+")


MARKS_ON_A_LETTER = 32
"""The most combining marks on one letter: more than any language uses; Unicode's stream-safe format has 30."""


@functools.cache
def _long_runs() -> re.Pattern[str]:
    """Return a pattern of more than MARKS_ON_A_LETTER marks in a row: characters that normalising reorders."""
    marks = "".join(
        character
        for character in map(chr, range(0x0300, 0x1F000))
        if unicodedata.combining(unicodedata.normalize("NFKD", character)[0])
    )
    return re.compile(f"([{marks}]{{{MARKS_ON_A_LETTER}}})[{marks}]+")


def fold(text: str) -> str:
    """Return the text without case, width and accents: `fold("Beyoncé") == fold("BEYONCE")`, `fold("北京") != fold("東京")`.

    Only accents of the Latin, Greek and Cyrillic scripts are removed, because the vowel signs of Hindi or the voicing marks of kana make
    other words. Marks beyond MARKS_ON_A_LETTER on one letter are removed, because normalising takes quadratic time in their number.
    """
    if text.isascii():
        return text.lower()
    text = _long_runs().sub(r"\1", text)
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFKC", _ACCENTS.sub("", decomposed).translate(_LETTERS))


def words(text: str) -> list[str]:
    """Return the folded text's words, in order: `words("The “Łódź” of 北京") == ["the", "lodz", "of", "北", "京"]`.

    A word is a run of letters, digits and their marks; in scripts without spaces, each character is one.
    """
    return _WORD.findall(fold(text))


def unbroken(text: str) -> str:
    """Return text that UTF-8 can encode: split surrogate pairs are joined, lone surrogates become U+FFFD."""
    if _SURROGATES.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def one_line(text: str) -> str:
    """Return a text on one line, without anything that a terminal would act on: `one_line("a\\n\\x1b[2Jb") == "a [2Jb"`."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def shortened(text: str, chars: int) -> str:
    """Return at most `chars` characters of a text, on one line: `shortened("one\\ntwo", 5) == "one …"`."""
    line = one_line(text[: 4 * chars])
    return line if len(line) <= chars else f"{line[: chars - 1]}…"


def counted(number: int, noun: str) -> str:
    """Return number and noun: `counted(1, "step") == "1 step"`, `counted(412, "token") == "412 tokens"`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
