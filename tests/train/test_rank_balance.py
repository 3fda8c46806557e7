"""Samples are divided over ranks by operations, and what belongs together stays together."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from plain_gradient import random_groups

from lzero.algo.layout import Layout, units
from lzero.algo.samples import to_samples
from lzero.train.ranks.balance import balanced, divide, operations


@settings(max_examples=50, deadline=None)
@given(costs=some.lists(some.integers(1, 1000), max_size=40), parts=some.integers(1, 8))
def test_every_unit_has_one_part_and_no_part_is_heavier_by_more_than_the_largest_unit(
    costs: list[int], parts: int
) -> None:
    found = balanced(costs, parts)
    assert len(found) == parts
    assert sorted(unit for part in found for unit in part) == list(range(len(costs)))
    loads = [sum(costs[unit] for unit in part) for part in found]
    assert max(loads) - min(loads) <= max(costs, default=0)
    assert found == balanced(costs, parts)


def test_differencing_beats_the_greedy_rule_on_its_own_example() -> None:
    """The greedy rule gives 17 and 13."""
    loads = [sum((8, 7, 6, 5, 4)[unit] for unit in part) for part in balanced((8, 7, 6, 5, 4), 2)]
    assert sorted(loads) == [14, 16]


def test_one_long_row_counts_as_many_short_ones() -> None:
    assert operations(8000, 100) > 8 * operations(1000, 100)
    assert operations(8, 10**6) < 8.1 * operations(1, 10**6)


@pytest.mark.parametrize("layout", [Layout(max_tokens=500, packing="tree"), Layout(max_tokens=50, whole_episodes=True)])
def test_rows_of_a_tree_and_whole_episodes_are_not_divided(layout: Layout) -> None:
    samples = [sample for group in random_groups(1) for episode in group.episodes for sample in to_samples(episode)]
    shares = divide(samples, layout, parts=3, width=16)
    owners = {index: rank for rank, share in enumerate(shares) for index in share}
    assert sorted(owners) == list(range(len(samples)))
    for unit in units(samples, layout):
        assert len({owners[index] for row in unit for index in row.members}) == 1


def test_more_ranks_than_rows_leave_some_without_any() -> None:
    assert sorted(map(len, balanced((5, 3), 4))) == [0, 0, 1, 1]
