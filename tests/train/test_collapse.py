"""Warnings of a collapse: each sign by a made-up history, real runs that learned without one, and a real one that fell apart."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lzero.train.collapse import Sign, collapse_warnings
from lzero.types import Json

HISTORIES = Path(__file__).parent / "histories"
"""Of the nano model on the built-in world, 12 updates: three seeds, and the control experiment with shuffled rewards."""

Line = dict[str, Json]


def history(metric: str, values: Sequence[float]) -> list[Line]:
    return [{"phase": "train", "update": update, metric: value} for update, value in enumerate(values)]


def all_warnings(lines: Sequence[Line]) -> list[Sign]:
    """Return the warnings that a run gives, after each line."""
    return [found for end in range(1, len(lines) + 1) for found in collapse_warnings(lines[:end])]


def recorded(name: str) -> list[Line]:
    return [json.loads(line) for line in (HISTORIES / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("metric", "values", "update"),
    [
        ("train/entropy", (0.5, 0.5, 0.5, 0.3, 0.1, 0.04, 0.02, 0.01), 7),
        ("rollout/tokens_per_step", (100, 100, 100, 100, 150, 250, 300), 6),
        ("rollout/tokens_per_step", (100, 100, 100, 100, 60, 30, 20), 6),
        ("groups/uniform", (0.5, 0.6, 0.7, 0.95, 1.0, 0.9, 1.0), 5),
        ("reward/std", (0.4, 0.4, 0.4, 0.1, 0.03, 0.03, 0.02), 6),
        ("reward/format", (0.1, 0.1, 0.1, 0.09, 0.07, 0.04), 5),
        ("rollout/failed_attempts", (0.0, 0.01, 0.0, 0.0, 0.1, 0.02, 0.1), 6),
    ],
)
def test_a_sign_is_told_once_with_the_metric_its_values_and_the_update(
    metric: str, values: tuple[float, ...], update: int
) -> None:
    found = all_warnings(history(metric, values))
    assert [(warned.metric, warned.update) for warned in found] == [(metric, update)]
    assert found[0].values == values[update - 2 : update + 1]
    assert str(found[0]).startswith(f"update {update}: {metric} is ")


def test_a_sign_that_was_gone_is_told_again() -> None:
    values = (0.5,) * 6 + (1.0,) * 4 + (0.5,) * 3 + (1.0,) * 3
    assert [warned.update for warned in all_warnings(history("groups/uniform", values))] == [8, 15]


def test_one_odd_update_warns_nobody() -> None:
    assert all_warnings(history("rollout/tokens_per_step", (100,) * 8 + (290,) + (100,) * 4)) == []


def test_failures_that_were_there_from_the_start_are_not_what_a_policy_learned() -> None:
    assert all_warnings(history("rollout/failed_attempts", (0.2, 0.1, 0.2, 0.2, 0.3, 0.2, 0.3))) == []
    (found,) = all_warnings(history("rollout/failed_attempts", (0.02,) * 6 + (0.2, 0.3)))
    assert "8% of all attempts fail, and 2% did at first" in str(found)


def test_replies_that_grow_slowly_are_no_explosion() -> None:
    assert all_warnings(history("rollout/tokens_per_step", [100 * 1.02**update for update in range(120)])) == []


def test_evaluations_and_metrics_that_are_missing_are_passed_over() -> None:
    lines = history("train/entropy", (0.5, 0.5, 0.5, 0.01, 0.01, 0.01))
    lines.insert(4, {"phase": "eval", "update": 4, "train/entropy": 0.5, "score": 1.0})
    assert [warned.update for warned in all_warnings(lines)] == [5]
    assert collapse_warnings([]) == []
    assert collapse_warnings([*lines, {"phase": "train", "update": 6}]) == []
    assert collapse_warnings([*lines, {"phase": "train", "update": 6, "train/entropy": float("nan")}]) == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_runs_that_learned_are_not_warned_of(seed: int) -> None:
    lines = recorded(f"healthy-{seed}")
    assert len(lines) == 12
    assert all_warnings(lines) == []


def test_a_run_that_fell_apart_was_warned_of() -> None:
    """With shuffled rewards the policy forgets its format and babbles, from update 5 on."""
    found = {warned.metric: warned.update for warned in all_warnings(recorded("shuffled-rewards"))}
    assert found == {"reward/format": 7, "rollout/tokens_per_step": 8, "groups/uniform": 8, "reward/std": 11}
