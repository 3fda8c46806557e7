"""The short way to a form gives what all rules give, and takes ordinary answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.rewards import answers
from lzero.rewards.ordinary import ordinary

WORDS = "a An the The may Paris U.S. e.g. m.p.h St. inf pi x i E km m s dollars million minus per second MW in Jean-Luc x-ray a-b ab-cd"
ODD = "O'Brien (the one) “quoted” ’s é Łódź ŀ æ-b ﬁ ſ ’ - & sqrt base utc AD B.C. inf.x x.km 北京 Ω"
NUMBERS = "5 12 1990 0 1,234 123 1,000,000 7th 1980s 3rd 007 1.5 2-3 10:30 5km 12,34 ٣ 199 1234567890123456 -5 ½"
PIECES = st.sampled_from([*WORDS.split(), *ODD.split(), *NUMBERS.split(), *NUMBERS.split()])
MARKS = st.sampled_from(["", "", "", "", ",", ".", ";", "!", "'", "-", " -"])
SPACES = st.sampled_from([" ", " ", "  ", "\xa0", "\n", ""])
TEXTS = st.lists(st.tuples(PIECES, MARKS, SPACES), min_size=1, max_size=5).map(
    lambda parts: "".join(map("".join, parts))
)


@given(TEXTS | st.text(max_size=12), st.sampled_from(["value", "text"]))
def test_the_short_way_and_all_rules_give_the_same_form(text: str, numbers: answers.Numbers) -> None:
    found = ordinary(text)
    form = answers._any_form(text, numbers)
    assert found is None or (found == (form.text, form.tokens) and not form.currencies)


@pytest.mark.parametrize(
    "text",
    [
        "The Beatles!",
        "Łódź",
        "Jean-Luc Picard",
        "O’Brien",
        "May 5, 1990",
        "about 1,234 people",
        "the 7th century",
        "1980s",
    ],
)
def test_ordinary_answers_take_the_short_way(text: str) -> None:
    assert ordinary(text) is not None


@given(TEXTS, TEXTS)
def test_scores_do_not_depend_on_the_way(one: str, other: str) -> None:
    forms = [answers._any_form(text, "value") for text in (one, other)]
    assert answers.exact_match(one, [other]) == forms[0].matches(forms[1])
    assert answers.f1(one, [other]) == answers._form_overlap(*forms)
    assert answers.exact_match(one, [one]) == (one.strip() != "")
