"""Scores of one answer, by name, against cases worked out by hand."""

import pytest
from builders import make_attempt, make_task

from lzero.config import RewardConfig
from lzero.errors import ConfigError
from lzero.rewards import answers, contains, make_reward
from lzero.rewards.scores import KNOWN, find_score, fitting, reward_key


def score(name: str, answer: str, *golds: str) -> float:
    return find_score(name)(answer, make_task(answers=golds))


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("18", "18"),
        ("$18.00", "18"),
        ("18 eggs", "18"),
        ("18eggs", "18"),
        ("It is 18.", "18"),
        ("16 + 2 = 18", "18"),
        ("\\boxed{18}", "18"),
        ("1.2e3", "1,200"),
        ("1 200", "1,200"),
        ("½", "0.5"),
        ("2/6", "1/3"),
        ("Total 18.50", "18.5"),
        ("minus 5", "−5"),
        ("5 million", "5,000,000"),
        ("٣", "3"),
        ("１８", "18"),
        ("5 km", "5"),
        ("5", "€5"),
    ],
)
def test_the_last_number_of_an_answer_is_compared_by_value(answer: str, gold: str) -> None:
    assert score("numeric", answer, gold) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("", "18"),
        ("eighteen", "18"),
        ("-5", "5"),
        ("18 or 19", "18"),
        ("0.333", "1/3"),
        ("5 km", "5 miles"),
        ("$5", "€5"),
        ("5", "five"),
        ("1", "1 and 2"),
    ],
)
def test_another_number_is_no_numeric_match(answer: str, gold: str) -> None:
    assert score("numeric", answer, gold) == 0.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("It was Marie Curie, in Paris.", "Marie Curie"),
        ("in May 1990", "1990"),
        ("about 1,234 people", "1234"),
        ("the Łódź ghetto", "Lodz"),
        ("首都は北京です", "北京"),
        ("The Beatles", "beatles"),
    ],
)
def test_an_answer_contains_a_gold_answer_in_any_script(answer: str, gold: str) -> None:
    assert contains(answer, ["nobody", gold])
    assert score("contains", answer, gold) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("a virus", "us"),
        ("Curie, Marie", "Marie Curie"),
        ("in 19905", "1990"),
        ("", "x"),
        ("x", ""),
        ("-5", "5"),
        ("東京", "北京"),
    ],
)
def test_parts_of_words_and_words_in_another_order_are_not_contained(answer: str, gold: str) -> None:
    assert not contains(answer, [gold])


def test_l0s_own_rule_contains_by_its_own_words() -> None:
    assert contains("The Beyoncé!", ["Beyonc"], match="ascii")
    assert not contains("北京", ["東京"], match="ascii")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("$1,234%", "1234"),
        ("17.000", "17"),
        ("1e3", "1000"),
        ("sea gull", "Seagull!"),
        ("St. Petersburg", "st petersburg"),
        ("Rick,  the dog", "rick, THE dog"),
        ("a, 3.0; $5", "A;3,5"),
        ("北京", "北京"),
        ("3 , b", "3,b"),
    ],
)
def test_gaias_own_rule_matches(answer: str, gold: str) -> None:
    assert score("gaia", answer, gold) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("17 apples", "17"),
        ("17.1", "17"),
        ("the dog", "dog"),
        ("b, a", "a, b"),
        ("a, b, c", "a, b"),
        ("a. , b", "a, b"),
        ("a, four", "a, 4"),
        ("no number", "inf"),
        ("nan", "nan"),
        ("  ", "?"),
        ("Beyonce", "Beyoncé"),
    ],
)
def test_gaias_own_rule_does_not_match(answer: str, gold: str) -> None:
    assert score("gaia", answer, gold) == 0.0


@pytest.mark.parametrize("name", KNOWN)
def test_a_gold_answer_or_an_alias_scores_one_and_a_blank_or_wrong_answer_none(name: str) -> None:
    golds = ("18", "0.5")
    assert [score(name, answer, *golds) for answer in ("18", "0.5", "", " ", "7")] == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_scores_fit_tasks_for_which_they_have_a_meaning() -> None:
    assert fitting(make_task(answers=("Kato",))) == ["em", "f1", "contains"]
    assert fitting(make_task(answers=("1990",), source="gaia/2023")) == ["em", "f1", "contains", "numeric", "gaia"]
    assert fitting(make_task(answers=("18",), ability="math"))[-2:] == ["numeric", "math"]
    assert fitting(make_task(answers=())) == []


def test_the_reward_pays_the_score_that_is_named() -> None:
    task = make_task(answers=("18",))
    reward = make_reward(RewardConfig(score="numeric", format=0.0, execution=0.0))
    assert reward(task, make_attempt(task, "18 eggs")).per_step == (0.8,)
    assert reward(task, make_attempt(task, "eggs: 18 or 19")).score == 0.0
    assert make_reward(RewardConfig())(task, make_attempt(task, "18 eggs")).score == 0.0


def test_an_unknown_score_and_keys_without_effect_are_named() -> None:
    with pytest.raises(ConfigError, match=r'reward\.score = "numerical": did you mean "numeric"'):
        make_reward(RewardConfig(score="numerical"))
    with pytest.raises(ValueError, match="match and numbers have an effect on exact match and F1 only"):
        RewardConfig(score="gaia", match="ascii")
    assert RewardConfig(score="gaia", f1=0.5, match="ascii").score_name == "score by gaia"
    assert (reward_key("gaia"), reward_key("simpleqa")) == ("reward.score", "reward.function")


def test_a_long_answer_is_normalised_once_for_all_its_scores() -> None:
    answers._long_form.cache_clear()
    task = make_task("t", answers=("18",))
    for name in ("em", "f1", "contains"):
        find_score(name)("12 of 18, " * 100, task)
    assert (answers._long_form.cache_info().misses, answers._long_form.cache_info().hits) == (1, 2)
