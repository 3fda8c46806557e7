"""Folding and words, in any script; lines and counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.text import counted, fold, one_line, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Beyoncé", "BEYONCE"),
        ("Straße", "STRASSE"),
        ("Łódź", "lodz"),
        ("Ｌｉｒｉ", "liri"),
        ("Ærøskøbing", "aeroskobing"),
        ("Beyonce\u0301", "Beyonc\u00e9"),
    ],
)
def test_case_width_and_accents_fold_away(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("one", "other"), [("北京", "東京"), ("かき", "がき"), ("सुत", "सूत"), ("서울", "부산"), ("Ω", "Ψ")]
)
def test_letters_and_vowel_signs_stay(one: str, other: str) -> None:
    assert fold(one) != fold(other)


def test_words_split_at_all_that_is_no_letter_digit_or_mark() -> None:
    assert words("The “Łódź” of 北京, don't_x!") == ["the", "lodz", "of", "北", "京", "don", "t", "x"]
    assert words("हिन्दी 서울") == ["हिन्दी", "서울"]
    assert words(" \0?!") == []


@given(st.text())
def test_words_of_any_text_are_their_own_words(text: str) -> None:
    found = words(text)
    assert words(" ".join(found)) == found


def test_a_strangers_text_stays_on_one_line() -> None:
    assert one_line(" a\n\x1b[2Jb\t\u202ec ") == "a [2Jb c"


def test_one_is_counted_without_an_s() -> None:
    assert [counted(number, "tool call") for number in (0, 1, 2)] == ["0 tool calls", "1 tool call", "2 tool calls"]


@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0f73", "\uff9e\u3099", "\U0001d165\u0334"])
def test_folding_any_number_of_marks_takes_linear_time(marks: str) -> None:
    """The square would take longer than the time limit of a test."""
    assert len(fold("a" + marks[0] * 200_000 + marks[-1] * 200_000)) < 200
