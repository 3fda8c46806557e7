"""Keep only the characters of a text that a person can see, for models and people.

A character is judged by its properties in Unicode, not by a list of known offenders:

    invisible (Default_Ignorable_Code_Point, other format characters, lone surrogates)   removed
    control characters and terminal escapes                                              removed; tab and line feed stay
    line and paragraph separator                                                         a line feed
    blank, but not a space (braille blank, null notehead, …)                             a space
    private use, noncharacter, unassigned                                                U+FFFD, which shows that something is there
    a joiner or variation selector that changes the look                                 stays

Joiners stay where languages and emoji need them: next to a virama (Indic scripts), between letters of Arabic script, between emoji.
"""

import logging
import re
import unicodedata
from functools import lru_cache

from lzero.text import MARKS_ON_A_LETTER

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor movement
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, links and other strings
    r"|\x1b[ -/]*[0-~]?"  # everything else that begins with an escape
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

# Unicode 16.0, PropList.txt. `unicodedata` has neither property; categories give the rest of Default_Ignorable_Code_Point.
OTHER_DEFAULT_IGNORABLE = (
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0),
    *range(0xFFF0, 0xFFF9),
    *(0xE0000, *range(0xE0002, 0xE0020), *range(0xE0080, 0xE0100), *range(0xE01F0, 0xE1000)),
)
"""Other_Default_Ignorable_Code_Point: fillers, and code points that are reserved for further format characters."""
VARIATION_SELECTORS = (*range(0x180B, 0x180E), 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
"""Variation_Selector."""
PREPENDED_MARKS = (*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD)
"""Prepended_Concatenation_Mark: the only format characters that are visible signs."""

_IGNORABLE = frozenset(map(chr, OTHER_DEFAULT_IGNORABLE + VARIATION_SELECTORS))
_PREPENDED = frozenset(map(chr, PREPENDED_MARKS))
_BLANK = frozenset("\u2800\U00013441\U00013442\U00016fe4\U0001d159")
"""Letters, symbols and marks whose glyph is empty by their definition in the code charts."""
_JOINERS = "\u200c\u200d"
_EMOJI_STYLE = "\ufe0f"
_CONDITIONAL = frozenset(_JOINERS + _EMOJI_STYLE)
_BY_CHARACTER = {
    **dict.fromkeys(_IGNORABLE, ""),
    **dict.fromkeys(_BLANK, " "),
    "\ufffc": "\ufffd",  # stands for an object that is not in the text
    # Shown; of the conditional ones, the neighbours decide.
    **{character: character for character in (*_PREPENDED, *_CONDITIONAL, "\t", "\n")},
}
"""Character → what is shown of it, where its category does not tell."""
_BY_CATEGORY = {"Cc": "", "Cf": "", "Cs": "", "Zl": "\n", "Zp": "\n", "Co": "\ufffd", "Cn": "\ufffd"}
_RUN = re.compile(f"([{_JOINERS}{_EMOJI_STYLE}]+)")
_MARK = "\u0300"
_LONG_RUN = re.compile(f"{_MARK}{{{MARKS_ON_A_LETTER + 1},}}")
_EMOJI_ELSEWHERE = frozenset("‼⁉ℹ↔◻◼◽◾〰〽")
"""Emoji that are not symbols of the category So."""
_KEYCAP = "\u20e3"
_KIND_OF_DIRECTION = {"AL": "letter", "NSM": "mark"}
"""Bidirectional class → the kind of its characters: letters of Arabic script, and marks on letters."""
_VIRAMA = 9
"""Combining class of the sign that joins consonants in Indic scripts."""


def clean(text: str) -> str:
    """Return the visible part of `text`, without escapes, invisible characters, and text that a carriage return overwrote.

    Cleaning twice changes nothing: `clean(clean(text)) == clean(text)`. Takes time linear in the text.
    """
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    if text.isascii():
        return _CONTROLS.sub("", text)
    # Python's own test is much faster, and passes nearly all characters of a long text.
    doubtful = (character for character in set(text) if not character.isprintable() or character in _BY_CHARACTER)
    if changed := {ord(character): new for character in doubtful if (new := _shown(character)) != character}:
        text = text.translate(changed)
    return _joined(_bounded(text))


class VisibleFormatter(logging.Formatter):
    """Formats log messages, which may quote an agent or a server, as a person sees them. Further lines are indented, so that none looks
    like another message."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record)).replace("\n", "\n  ")


def _shown(character: str) -> str:
    """Return the replacement of one character, independent of its neighbours."""
    shown = _BY_CHARACTER.get(character)
    if shown is not None:
        return shown
    category = unicodedata.category(character)
    if category == "Cn" and _is_reserved_for_signs(ord(character)):
        return character
    return _BY_CATEGORY.get(category, character)


def _is_reserved_for_signs(code: int) -> bool:
    """Return whether an unassigned code point is kept free for emoji or ideographs: later versions of Unicode assign it as such."""
    return (0x1F000 <= code <= 0x1FAFF or 0x20000 <= code <= 0x3FFFD) and code & 0xFFFE != 0xFFFE


def _bounded(text: str) -> str:
    """Return the text with at most MARKS_ON_A_LETTER combining marks in a row: more of them cover the lines around."""
    others = (character for character in set(text) if not character.isalnum())
    marks = [ord(character) for character in others if unicodedata.category(character) in ("Mn", "Me")]
    if not marks:
        return text
    # As one character: a pattern of many characters beyond U+FFFF compares each of them, one after another.
    alike = text.translate(dict.fromkeys((*marks, *map(ord, _CONDITIONAL)), _MARK))
    kept, end = [], 0
    for run in _LONG_RUN.finditer(alike):
        kept.append(text[end : run.start() + MARKS_ON_A_LETTER])
        end = run.end()
    return "".join((*kept, text[end:]))


def _joined(text: str) -> str:
    """Return the text without the joiners and variation selectors that change nothing.

    If the text has no character that they could change, this removes all of them without looking at each.
    """
    parts = _RUN.split(text)  # text, run, text, run, …, text
    if len(parts) == 1:
        return text
    befores, afters = [part[-1:] for part in parts[:-1:2]], [part[:1] for part in parts[2::2]]
    kinds: dict[str, str | None] = {character: _kind(character) for character in {*befores, *afters} - {""}}
    if not any(kinds.values()):
        return "".join(parts[::2])
    kinds[""] = None
    runs = [run if len(run) == 1 else "".join(sorted(set(run))) for run in parts[1::2]]
    parts[1::2] = map(_needed, runs, map(kinds.__getitem__, befores), map(kinds.__getitem__, afters))
    return "".join(parts)


def _kind(character: str) -> str:
    """Return the kinds of a character whose look a joiner or variation selector beside it may change; "" for any other character."""
    kind = _KIND_OF_DIRECTION.get(unicodedata.bidirectional(character), "")
    if unicodedata.combining(character) == _VIRAMA:
        kind += " virama"
    if _is_emoji(character):
        kind += " emoji"
    return kind + " keycap" if character == _KEYCAP else kind


@lru_cache(maxsize=1 << 14)
def _needed(run: str, before: str | None, after: str | None) -> str:
    """Return the characters of the run that change how its neighbours look, each once.

    `before`, `after`: their kinds; None where the text begins or ends.
    """
    joiner = next((character for character in run if character in _JOINERS), "")
    if joiner and _joins(before, after or ""):
        return joiner
    is_emoji, after = "emoji" in (before or ""), after or ""
    style = _EMOJI_STYLE if _EMOJI_STYLE in run and (is_emoji or "keycap" in after) else ""  # "1️⃣" has a keycap
    return style + ("\u200d" if "\u200d" in run and is_emoji and "emoji" in after else "")


def _joins(before: str | None, after: str) -> bool:
    """Return whether a joiner between these two changes how they are written (RFC 5892, A.1 and A.2)."""
    if before is None:
        return False
    return "virama" in before + after or ("letter" in after and ("letter" in before or "mark" in before))


def _is_emoji(character: str) -> bool:
    """Return whether a character may be an emoji: a symbol, or the tone of its skin."""
    return (
        unicodedata.category(character) == "So"
        or character in _EMOJI_ELSEWHERE
        or "\U0001f3fb" <= character <= "\U0001f3ff"
    )
