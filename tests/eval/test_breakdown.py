"""An evaluation broken down, against figures worked out by hand."""

import math
from typing import Any

import msgspec
import pytest
from builders import GONE, make_attempt, make_completion, make_record, make_step, make_task, reward_of

from lzero.eval.breakdown import MAX_PARTS, OTHERS, breakdown
from lzero.rewards.simpleqa import GRADES, published_scores
from lzero.store import Record
from lzero.types import Reward, ToolCall, Usage

LOOKUP = ToolCall(name="search", arguments={}, duration_s=0.0)


def record(number: int, *answers: str | None, **fields: Any) -> Record:
    return make_record(*answers, task=make_task(f"t{number}", answers=("18",), **fields))


def test_answers_have_other_scores_over_the_tasks_that_they_fit() -> None:
    text = make_record("the Kato", "nobody", task=make_task("text"))
    found = breakdown([record(0, "18"), record(1, "18 eggs"), record(2, None, "7", source="gaia"), text])
    assert {name: part.values for name, part in found.scores.items()} == {
        "em": (1.0, 0.0, 0.0, 0.5),
        "f1": (1.0, pytest.approx(2 / 3), 0.0, 0.5),
        "contains": (1.0, 1.0, 0.0, 0.5),
        "numeric": (1.0, 1.0, 0.0),
        "gaia": (0.0,),
    }
    low, high = found.scores["numeric"].interval
    assert 0.0 <= low <= found.scores["numeric"].mean <= high <= 1.0


def test_scores_are_split_by_what_is_known_of_the_tasks() -> None:
    records = [
        record(0, "18", ability="math", hops=2, difficulty=1.0, source="a"),
        record(1, "18", "7", ability="qa", hops=10, difficulty=5.0, source="a"),
        record(2, "7", ability="qa", difficulty=5.0, source="a"),
    ]
    found = breakdown(records)
    means = {name: {value: part.mean for value, part in parts.items()} for name, parts in found.by.items()}
    assert means == {
        "ability": {"math": 1.0, "qa": 0.25},
        "hops": {"2": 1.0, "10": 0.5},
        "difficulty": {"1": 1.0, "5": 0.25},
    }
    assert list(found.by["hops"]) == ["2", "10"]
    metrics = found.metrics()
    assert (metrics["by/hops/10"], metrics["scores/em"]) == (0.5, 0.5)


def test_many_values_of_a_property_are_those_of_most_tasks_and_the_others() -> None:
    records = [record(number, "18" if number % 3 else "7", source=f"s{number // 2}") for number in range(200)]
    records += [record(200 + number, "18", source="large") for number in range(3)]
    sources = breakdown(records).by["source"]
    assert len(sources) == MAX_PARTS
    assert sources["large"].values == (1.0,) * 3
    assert sum(part.num_tasks for part in sources.values()) == 203
    assert sources[OTHERS].num_tasks == 2 * (100 - (MAX_PARTS - 2))


def test_a_part_that_is_named_as_the_others_loses_no_task() -> None:
    records = [record(number, "18", source=OTHERS) for number in range(10)]
    records += [record(10 + number, "7", source=f"s{number}") for number in range(60)]
    sources = breakdown(records).by["source"]
    assert len(sources) == MAX_PARTS
    assert sum(part.num_tasks for part in sources.values()) == 70
    assert sum(sources[OTHERS].values) == 10.0


def test_evaluations_of_the_same_tasks_have_the_same_parts_whatever_failed() -> None:
    def names(failed: set[int]) -> tuple[set[str], set[str]]:
        records = [
            record(number, None if number in failed else "18", source=f"s{number // 2}", difficulty=float(number))
            for number in range(120)
        ]
        found = breakdown(records).by
        return set(found["source"]), set(found["difficulty"])

    assert names(set()) == names({0, 2, 119})


def test_no_difficulty_is_too_large_or_too_small_for_a_range() -> None:
    for values in ([-1.7e308, 1.7e308, *range(9)], [number * 5e-324 for number in range(12)]):
        found = breakdown([record(number, "18", difficulty=float(value)) for number, value in enumerate(values)])
        assert sum(part.num_tasks for part in found.by.get("difficulty", {}).values()) in (0, len(values))


def test_many_difficulties_are_put_into_ranges() -> None:
    found = breakdown([record(number, "18" if number < 50 else "7", difficulty=float(number)) for number in range(101)])
    assert {name: (part.num_tasks, part.mean) for name, part in found.by["difficulty"].items()} == {
        "0 to 20": (20, 1.0),
        "20 to 40": (20, 1.0),
        "40 to 60": (20, 0.5),
        "60 to 80": (20, 0.0),
        "80 to 100": (21, 0.0),
    }


def test_costs_are_means_for_an_episode_and_money_only_where_all_of_it_is_known() -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=7, cost_usd=0.5)
    timings = {"engine": 2.0, "repl": 1.0, "work": 0.5}
    paid = make_step(make_completion((), usage=usage), tool_calls=(LOOKUP, LOOKUP), timings=timings)
    plain = make_step(make_completion((1, 2)), keep=3, new_ids=(4, 5))
    task = make_task()

    def costs(*attempts: tuple[object, ...]) -> dict[str, float]:
        episodes = [
            msgspec.structs.replace(make_attempt(task, "Kato", index=index), steps=steps)
            for index, steps in enumerate(attempts)
        ]
        return breakdown([make_record(*episodes, task=task)]).costs

    assert costs((paid, paid), (paid,)) == {
        "steps": 1.5,
        "prompt_tokens": 150.0,
        "tokens": 10.5,
        "tool_calls": 3.0,
        "seconds": 4.5,
        "usd": 0.75,
    }
    mixed = costs((paid, plain))
    assert (mixed["prompt_tokens"], mixed["tokens"]) == (105.0, 9.0)
    assert "usd" not in mixed


def test_endings_tell_wrong_answers_from_none_and_from_failures() -> None:
    task = make_task()
    half = make_attempt(task, "half", index=3)
    attempts = [
        make_attempt(task, "Kato"),
        make_attempt(task, "Umi", index=1),
        make_attempt(task, None, index=2, status="out_of_steps"),
        half,
        make_attempt(task, index=4, failure=GONE),
    ]
    rewards = [None if each.failure else reward_of(task, each) for each in attempts]
    rewards[3] = Reward(score=0.5, per_step=(0.5,), parts={})
    found = breakdown([Record(task=task, episodes=tuple(attempts), rewards=tuple(rewards))])
    assert found.endings == {
        "right": 1,
        "wrong": 1,
        "no answer, out_of_steps": 1,
        "partly right": 1,
        "failed, repl": 1,
    }
    with pytest.raises(ValueError, match="no episode has a score"):
        breakdown([make_record(None)])


def test_simpleqas_figures_are_those_published() -> None:
    assert published_scores(30, 10, 60) == pytest.approx(
        {"correct": 0.3, "incorrect": 0.1, "not_attempted": 0.6, "correct_given_attempted": 0.75, "f": 3 / 7}
    )
    assert published_scores(0, 0, 5)["f"] == 0.0
    assert published_scores(0, 0, 0) == {}
    assert math.isclose(published_scores(7, 0, 0)["f"], 1.0)


def test_grades_of_a_judge_are_counted_without_malformed_ones() -> None:
    def graded(number: int, grade: str) -> Record:
        task = make_task(f"t{number}")
        parts: dict[str, tuple[float, ...]] = {name: (float(name == grade),) for name in (*GRADES, "malformed")}
        reward = Reward(score=float(grade == "correct"), per_step=parts["correct"], parts=parts)
        return Record(task=task, episodes=(make_attempt(task, "x"),), rewards=(reward,))

    grades = ("correct", "incorrect", "not_attempted", "not_attempted", "malformed")
    found = breakdown([graded(number, grade) for number, grade in enumerate(grades)])
    assert found.simpleqa == pytest.approx(published_scores(1, 1, 2))
    assert found.metrics()["simpleqa/f"] == pytest.approx(1 / 3)
