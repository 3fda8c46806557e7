"""Rewards against hand numbers; answers in many scripts."""

import re
import string
from typing import Literal

import pytest
from builders import make_episode, make_execution, make_step, make_task
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lzero.config import RewardConfig
from lzero.errors import ConfigError
from lzero.rewards import exact_match, f1, make_reward, normalize
from lzero.types import (
    Episode,
    Error,
    Execution,
    Parsed,
    Step,
    Stream,
)

TASK = make_task(answers=("Kato", "Kato Umi"))
PRINT = Stream(name="stdout", text="x\n")
CRASH = Error(ename="ValueError", evalue="no", traceback=())
CLEAN = make_execution(PRINT)
SILENT = make_execution()
CRASHED = make_execution(*(PRINT,) * 9, CRASH)


def step(execution: Execution | None = CLEAN, *, well_formed: bool = True) -> Step:
    return make_step(execution=execution, parsed=Parsed(think="", code="x", well_formed=well_formed))


def episode(*steps: Step, answer: str | None = None) -> Episode:
    return make_episode(*steps, answer=answer, status="out_of_steps" if answer is None else "finished")


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("Beyoncé", "Beyonce"),
        ("the Łódź ghetto.", "Lodz Ghetto"),
        ("北京。", "北京"),
        ("U.S.", "us"),
        ("１９９０", "1990"),
        ("1,234,567", "1234567"),
        ("1990-1995", "1990 – 1995"),
        ("−5", "-5"),
        ("$18.", "18"),
        ("The The", "the the"),
        ("A", "a"),
        ("+", "+"),
        ("- Paris", "Paris"),
        ("- The Beatles", "Beatles"),
        ("-Paris", "Paris"),
        ("— Paris", "Paris"),
        ("- x", "x"),
        ("Paris – France", "Paris, France"),
        ("Jean-Luc", "jean‐luc"),
        ("X-ray", "xray"),
        ("the C++.", "(C++)"),
        ("**C#**", "C#"),
        ("`-x`", "−x"),
        ("a - b", "a−b"),
        ("A−", "A-."),
        ("y = - x", "y = -x"),
        ("+x", "x"),
        ("-\\sin(x)", "-sin(x)"),
        ("#MeToo", "MeToo"),
    ],
)
def test_the_same_answer_written_otherwise_matches(prediction: str, gold: str) -> None:
    assert exact_match(prediction, [gold])
    assert f1(prediction, [gold]) == 1.0


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("北京", "東京"),
        ("かき", "がき"),
        ("3.5", "35"),
        ("-5", "5"),
        ("1/2", "12"),
        ("½", "12"),
        ("The", "A"),
        ("+", "-"),
        ("", "a"),
        ("", "+"),
        ("  ", "the"),
        ("\0", "!"),
        ("-x", "x"),
        ("-i", "i"),
        ("y=-x", "y=x"),
        ("f(-x)", "f(x)"),
        ("f(-x)", "-f(x)"),
        ("-sin(x)", "sin(x)"),
        ("a-b", "a+b"),
        ("a - b", "b - a"),
        ("a - b", "b"),
        ("(a+b)-(c+d)", "(a+b)+(c+d)"),
        ("a-(b+c)", "a-b+c"),
        ("¬p", "p"),
        ("~p", "p"),
        ("A+", "A"),
        ("A-", "A"),
        ("A+", "A-"),
        ("BBB-", "BBB"),
        ("C++", "C"),
        ("C#", "C"),
        ("C++", "C#"),
    ],
)
def test_another_answer_does_not_match(prediction: str, gold: str) -> None:
    assert not exact_match(prediction, [gold])
    assert not exact_match(gold, [prediction])


def test_aliases_match_too() -> None:
    assert exact_match("kato umi", TASK.answers)
    assert not exact_match("umi", TASK.answers)
    assert not exact_match("kato", [])


WITHOUT_SIGNS = "".join(sorted({*string.punctuation} - {*"-+~#"}))


@given(st.text(alphabet=string.ascii_letters + WITHOUT_SIGNS + " ", min_size=1))
def test_on_plain_english_the_rules_are_squads(text: str) -> None:
    assume(not re.search("inf|pi", text.lower()))  # these are numbers, with a sign
    without_punctuation = "".join(character for character in text.lower() if character not in string.punctuation)
    squad = " ".join(re.sub(r"\b(a|an|the)\b", " ", without_punctuation).split())
    assert not squad or normalize(text) == squad


TERMS = [
    "a",
    "-b",
    "f(-x)",
    "(a+b)",
    "the cat",
    "- the end",
    "A+",
    "BBB-",
    "C++",
    "C#",
    "-(c)",
    "Jean-Luc",
    "¬p",
    "-sin(x)",
    "(ab)",
]


@given(
    st.lists(st.sampled_from(TERMS), min_size=1, max_size=4),
    st.sampled_from([" - ", "-", "+", " – ", " = ", ", ", " "]),
)
def test_a_form_with_signs_is_its_own_form(terms: list[str], mark: str) -> None:
    form = normalize(mark.join(terms))
    assert normalize(form) == form


@given(st.text())
@example("¨")  # an accent alone
def test_an_answer_matches_itself_unless_it_is_blank(text: str) -> None:
    assert exact_match(text, [text]) == bool(normalize(text))
    assert normalize(text) != "" or not text.strip()


@pytest.mark.parametrize(
    ("prediction", "gold", "matches"),
    [
        ("New-York!", "new york", True),
        ("北京", "東京", True),
        ("Beyoncé", "Beyonce", False),
        ("The Beatles", "Beatles", False),
        ("3.5", "35", True),
        ("", "北京", False),
        (" ", "東京", False),
    ],
)
def test_l0s_own_match_deletes_all_but_ascii_letters_and_digits(prediction: str, gold: str, matches: bool) -> None:
    assert exact_match(prediction, [gold], match="ascii") == matches
    reward = make_reward(RewardConfig(match="ascii"))
    task = make_task(answers=(gold,))
    assert reward(task, episode(step(), answer=prediction)).score == float(matches)


def test_l0s_own_match_counts_the_words_that_are_left() -> None:
    assert f1("the Beyoncé 北京", ["Beyonc"], match="ascii") == pytest.approx(2 / 3)
    assert f1("北京", ["東京"], match="ascii") == 0.0
    config = RewardConfig(match="ascii", f1=1.0)
    task = make_task(answers=("the Kato",))
    assert make_reward(config)(task, episode(step(), answer="Kato")).parts["qa"] == pytest.approx((0.8 * 2 / 3,))


def test_f1_counts_each_token_as_often_as_it_occurs() -> None:
    assert f1("red red blue", ["red blue green"]) == pytest.approx(2 / 3)
    assert f1("red red", ["red"]) == pytest.approx(2 / 3)
    assert f1("red", ["blue", "red apple"]) == pytest.approx(2 / 3)
    assert f1("北京大学", ["北京"]) == pytest.approx(2 / 3)
    assert f1("red", ["blue"]) == 0.0
    assert f1("-3.5", ["3.5"]) == 0.0
    assert f1("red", []) == 0.0
    assert f1("", [""]) == 0.0


def test_a_flawless_episode_earns_the_sum_of_the_weights() -> None:
    reward = make_reward(RewardConfig())(TASK, episode(step(), step(), answer="Kato"))
    assert reward.score == 1.0
    assert reward.parts == {"qa": (0.0, 0.8), "format": (0.05, 0.05), "execution": (0.05, 0.05)}
    assert reward.per_step == pytest.approx((0.1, 0.9))


def test_a_wrong_answer_earns_nothing_for_itself() -> None:
    reward = make_reward(RewardConfig())(TASK, episode(step(), answer="Titu"))
    assert reward.score == 0.0
    assert reward.per_step == pytest.approx((0.2,))


def test_a_silent_cell_is_clean_and_a_crash_after_ten_prints_is_not() -> None:
    reward = make_reward(RewardConfig(qa=0, format=0))
    steps = (step(SILENT), step(CRASHED), step(None), step())
    assert reward(TASK, episode(*steps)).per_step == pytest.approx((0.025, 0.0, 0.0, 0.025))


def test_l0s_own_rule_pays_the_crash_and_not_the_silence() -> None:
    reward = make_reward(RewardConfig(qa=0, format=0, execution_rule="l0"))
    steps = (step(SILENT), step(CRASHED), step(None), step())
    assert reward(TASK, episode(*steps)).per_step == pytest.approx((0.0, 0.0225, 0.0, 0.025))


@pytest.mark.parametrize("status", ["timed_out", "killed"])
def test_a_cell_that_was_stopped_is_not_clean(status: Literal["timed_out", "killed"]) -> None:
    execution = make_execution(PRINT, status=status)
    assert make_reward(RewardConfig())(TASK, episode(step(execution))).parts["execution"] == (0.0,)


def test_format_is_paid_for_each_well_formed_step() -> None:
    steps = (step(well_formed=False), step(), step(), step())
    assert make_reward(RewardConfig())(TASK, episode(*steps)).parts["format"] == (0.0, 0.025, 0.025, 0.025)


def test_l0s_bonus_for_any_answer_is_a_share_of_qa() -> None:
    reward = make_reward(RewardConfig(has_answer=0.1))
    assert reward(TASK, episode(step(), answer="Kato")).parts["qa"] == pytest.approx((0.8,))
    assert reward(TASK, episode(step(), answer="Titu")).parts["qa"] == pytest.approx((0.08,))
    assert reward(TASK, episode(step(), answer=" ")).parts["qa"] == (0.0,)
    assert reward(TASK, episode(step())).parts["qa"] == (0.0,)


def test_f1_is_a_share_of_qa_and_never_of_the_score() -> None:
    reward = make_reward(RewardConfig(f1=0.5))(TASK, episode(step(), answer="Kato Foo"))
    assert reward.score == 0.0
    assert reward.parts["qa"] == pytest.approx((0.8 * 0.5 * 2 / 3,))


def test_an_episode_without_steps_has_no_rewards_and_keeps_its_score() -> None:
    reward = make_reward(RewardConfig())
    assert reward(TASK, episode()).per_step == ()
    assert reward(TASK, episode(answer="Kato")).score == 1.0


def test_shares_above_the_whole_are_refused() -> None:
    with pytest.raises(ConfigError, match="sum must be at most 1"):
        make_reward(RewardConfig(has_answer=0.6, f1=0.6))


EXECUTIONS = st.one_of(
    st.none(),
    st.builds(
        lambda outputs, status: Execution(outputs=tuple(outputs), status=status, duration_s=0.0),
        st.lists(st.sampled_from([PRINT, CRASH]), max_size=4),
        st.sampled_from(["ok", "error", "timed_out", "killed"]),
    ),
)


@given(
    st.lists(
        st.builds(lambda execution, good: step(execution, well_formed=good), EXECUTIONS, st.booleans()), max_size=6
    ),
    st.sampled_from([None, "", "Kato", "Kato Bar", "no"]),
    st.sampled_from(["clean", "l0"]),
)
def test_parts_add_up_and_stay_within_their_weights(steps: list[Step], answer: str | None, rule: str) -> None:
    config = RewardConfig.model_validate({"execution_rule": rule, "f1": 0.3, "has_answer": 0.2})
    reward = make_reward(config)(TASK, episode(*steps, answer=answer))
    assert len(reward.per_step) == len(steps)
    for index, value in enumerate(reward.per_step):
        assert value == pytest.approx(sum(part[index] for part in reward.parts.values()))
    for name, weight in (("qa", 0.8), ("format", 0.1), ("execution", 0.1)):
        assert 0 <= sum(reward.parts[name]) <= weight + 1e-9
