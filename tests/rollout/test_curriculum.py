"""Draws of a curriculum: as likely as the weights say, and without a look at every task."""

from collections import Counter

import pytest

from lzero.rollout.curriculum import TRIES, PassRates

DRAWS = 4_000


class Looked(PassRates):
    """Counts the tasks whose weight is asked for."""

    looks = 0

    def weight(self, index: int) -> float:
        self.looks += 1
        return super().weight(index)


def test_one_of_a_million_tasks_is_drawn_after_a_look_at_few() -> None:
    rates = Looked(1_000_000)
    (drawn,) = rates.draw(1, seed=0)
    assert 0 <= drawn < 1_000_000
    assert rates.looks <= TRIES


@pytest.mark.parametrize("num_tasks", [4, 40], ids=["by a look at all", "by rejection"])
def test_tasks_are_drawn_as_often_as_their_weights_say(num_tasks: int) -> None:
    rates = PassRates(num_tasks)
    for index in range(num_tasks):
        rates.saw(index, [1.0, 0.0] if index % 4 == 0 else [1.0] * (2 + 4 * (index % 4)))
    allowed = [index for index in range(num_tasks) if index != 1]
    drawn = Counter(index for seed in range(DRAWS) for index in rates.draw(1, seed=seed, without=[1]))
    whole = sum(map(rates.weight, allowed))
    for remainder in range(4):
        tasks = [index for index in allowed if index % 4 == remainder]
        expected = sum(map(rates.weight, tasks)) / whole
        assert sum(drawn[index] for index in tasks) / DRAWS == pytest.approx(expected, abs=0.03)  # four standard errors
    assert not drawn[1]


def test_all_tasks_are_drawn_once_each_before_one_is_drawn_again() -> None:
    rates = PassRates(10)
    assert sorted(rates.draw(10, seed=0)) == list(range(10))
    assert sorted(Counter(rates.draw(15, seed=0)).values()) == [1] * 5 + [2] * 5
