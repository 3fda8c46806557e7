"""Intervals and tests against published values and simulation."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.eval.statistics import interval, sign_test


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
def test_an_interval_lies_within_the_values_and_is_the_same_each_time(values: list[float]) -> None:
    low, high = interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert interval(values) == (low, high)


def test_an_interval_is_the_normal_one_for_many_values() -> None:
    dice = random.Random(1)
    values = [float(dice.random() < 0.7) for _ in range(1_000)]
    mean, error = statistics.fmean(values), statistics.pstdev(values) / math.sqrt(len(values))
    assert interval(values) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.004)


def test_the_interval_of_very_many_values_takes_no_resampling() -> None:
    values = [1.0, 0.0, 0.0, 0.0] * 50_000
    half = 1.96 * math.sqrt(0.25 * 0.75 / len(values))
    assert interval(values) == pytest.approx((0.25 - half, 0.25 + half), abs=1e-6)


def test_without_values_there_is_no_interval() -> None:
    assert all(map(math.isnan, interval([])))


@pytest.mark.parametrize(
    ("gains", "losses", "p_value"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (6, 0, 0.03125),
        (0, 6, 0.03125),
        (9, 1, 0.021484375),
        (121, 59, 4.4e-6),
        (7_010, 7_010, 1.0),  # by the normal distribution
        (6_900, 7_120, 0.0643),
    ],
)
def test_the_exact_sign_test(gains: int, losses: int, p_value: float) -> None:
    differences = [0.5] * gains + [-1.0] * losses + [0.0] * 100
    assert sign_test(differences) == pytest.approx(p_value, rel=0.05)
