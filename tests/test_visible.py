"""Characters as a model and a person see them, by their properties in Unicode."""

import sys
import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from lzero.text import MARKS_ON_A_LETTER
from lzero.visible import OTHER_DEFAULT_IGNORABLE, PREPENDED_MARKS, VARIATION_SELECTORS, clean

ALL = "".join(chr(code) for code in (*range(0xD800), *range(0xE000, 0x32000), *range(0xE0000, 0xE1000)))
"""Every character but surrogates and those of planes that are empty or private."""
HONEST = {
    "Persian": "می‌خواهم",
    "Urdu, with marks": "کِتاب، عِلم",
    "Hindi": "क्‍ष र्‍य",
    "Bengali": "র‍্যাম",
    "Malayalam": "ന്‍",
    "Sinhala": "ශ්‍රී",
    "Hebrew": "שָׁלוֹם",
    "Thai": "ภาษาไทย",
    "Korean": "한국어",
    "Korean, in parts": "\u1112\u1161\u11ab",
    "Chinese": "北京、東京",
    "Vietnamese": unicodedata.normalize("NFD", "Tiếng Việt"),
    "family": "👨‍👩‍👧‍👦",
    "flag": "🏳️‍🌈 🇩🇪",
    "heart": "❤️‍🔥 ❤️",
    "profession": "👩🏽‍💻 🧑‍⚕️",
    "keycap": "1️⃣",
    "arrows": "🙂‍↔️ ↔️",
    "box": "┌─┐ ⠋ ░▒▓ ✓",
    "spaces": "1 234 km　全角",
    "mathematics": "∀x ∈ ℝ: x² ≥ 0",
}


def matching(pattern: str) -> set[str]:
    return set(regex.findall(pattern, ALL, regex.VERSION1))


def test_what_nobody_sees_is_removed() -> None:
    invisible = matching(r"\p{Default_Ignorable_Code_Point}") | matching(r"\p{Bidi_Control}")
    invisible |= matching(r"\p{Variation_Selector}")
    formats = matching(r"[\p{Cf}--\p{Prepended_Concatenation_Mark}]")
    invisible |= {character for character in formats if unicodedata.category(character) == "Cf"}  # Python knows it, too
    assert len(invisible) > 4000
    kept = {character for character in invisible if clean(f"a{character}b") != "ab"}
    assert not kept


def test_the_tables_are_those_of_unicode() -> None:
    """As far as the library knows them: its version of Unicode may be another one."""
    assert set(map(chr, PREPENDED_MARKS)) == matching(r"\p{Prepended_Concatenation_Mark}")
    assert set(map(chr, VARIATION_SELECTORS)) == matching(r"\p{Variation_Selector}")
    assert set(map(chr, OTHER_DEFAULT_IGNORABLE)) == matching(
        r"[\p{Default_Ignorable_Code_Point}--\p{Cf}--\p{Variation_Selector}]"
    )


def test_what_has_no_meaning_of_its_own_shows_that_something_is_there() -> None:
    for character in ("\ue000", "\U000f0000", "\U0010fffd", "\ufdd0", "\uffff", "\U0001fffe", "\u0378", "\ufffc"):
        assert clean(f"a{character}b") == "a\ufffdb"
    ideograph, newer_emoji = "\U00020000", "\U0001fae8"
    assert clean(ideograph + newer_emoji) == ideograph + newer_emoji


def test_what_looks_blank_is_a_space() -> None:
    assert clean("a\u2800b\U0001d159c\U00016fe4d") == "a b c d"
    assert clean("한\u3164글\u115f\u1160\uffa0") == "한글"
    assert clean("a\u2028b\u2029c") == "a\nb\nc"


@pytest.mark.parametrize("text", HONEST.values(), ids=HONEST.keys())
def test_honest_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_joiners_go_where_they_change_nothing() -> None:
    assert clean("pass\u200dword a\u200c b\u200d\u200d") == "password a b"
    assert clean("<\u200d/out\ufe0fput>") == "</output>"
    assert clean("می\u200c\u200c\u200dخواهم") == "می\u200cخواهم"


def test_bytes_hidden_in_selectors_and_tags_are_gone() -> None:
    hidden = "".join(chr(0xE0100 + byte) + chr(0xE0000 + byte) + chr(0xFE00 + byte % 15) for byte in b"obey")
    assert clean(f"😀{hidden}北{hidden}") == "😀北"


def test_marks_on_one_letter_are_bounded() -> None:
    assert clean("Z" + "\u0301\u20dd" * 500 + "a") == "Z" + "\u0301\u20dd" * (MARKS_ON_A_LETTER // 2) + "a"


STRANGE = st.text(
    st.characters() | st.sampled_from("\u200c\u200d\ufe0f\u0301\u094d\u0915\u0628❤👩\U000e0041\r\n\x1b[m\u2028\u20e3")
)


@given(STRANGE)
def test_cleaned_text_is_clean(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    for character in once:
        assert unicodedata.category(character) not in ("Cs", "Co", "Zl", "Zp")
        assert unicodedata.category(character) != "Cc" or character in "\t\n"


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("\t\n")))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            piece * 10_000
            for piece in ("a\u200d", "\U0001f600\u200d", "\u0628\u200c", "\u0915\u094d\u200d\ufe0f", "\U0001f600\ufe0f")
        ),
        "".join(map(chr, range(0x20000, 0x25000))),
        "".join(map(chr, range(0xAC00, 0xD000))) + "a\u200db",
    ],
    ids=lambda text: text[:3].encode("unicode_escape").decode(),
)
def test_a_long_text_calls_no_function_for_each_character(text: str) -> None:
    """Outputs of a quarter of a million characters are cleaned on the event loop."""
    calls = []
    sys.setprofile(lambda frame, event, _: calls.append(frame) if event == "call" else None)
    try:
        clean(text)
    finally:
        sys.setprofile(None)
    assert len(calls) < 200
