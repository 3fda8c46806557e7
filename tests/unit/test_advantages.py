import math

import pytest

from lzero.algo.advantages import reinforce_plus_plus, returns_to_go, shuffle_rewards
from lzero.types import Attempt


def paid(*rewards: tuple[float, ...], groups: str = "") -> list[Attempt]:
    """Attempts at tasks that letters name (all at one task, if none are named)."""
    return [
        Attempt(group=group, rewards=own, states=tuple(map(str, range(len(own)))))
        for own, group in zip(rewards, groups or "a" * len(rewards), strict=True)
    ]


def test_the_return_of_a_step_is_what_follows_it_discounted_by_steps() -> None:
    assert returns_to_go((1.0, 2.0, 4.0), gamma=0.5) == (3.0, 4.0, 4.0)
    assert returns_to_go((1.0, 2.0, 4.0), gamma=0.0) == (1.0, 2.0, 4.0)
    assert returns_to_go((1.0, 2.0, 4.0), gamma=1.0) == (7.0, 6.0, 4.0)
    assert returns_to_go((), gamma=0.5) == ()


def test_advantages_are_normalised_over_all_steps_of_all_episodes() -> None:
    # Returns: (0.5, 1.0) and (0.0,). Mean 0.5; unbiased variance (0 + 0.25 + 0.25) / 2 = 0.25, so std 0.5.
    first, second = reinforce_plus_plus(paid((0.0, 1.0), (0.0,)), gamma=0.5)
    assert first == pytest.approx((0.0, 1.0), abs=1e-7)
    assert second == pytest.approx((-1.0,), abs=1e-7)


def test_a_long_episode_weighs_by_its_steps() -> None:
    # Returns 1, 1, 1 and 0: mean 0.75, not the 0.5 of episode means; std = sqrt((3 · 0.0625 + 0.5625) / 3) = 0.5.
    first, second = reinforce_plus_plus(paid((0.0, 0.0, 1.0), (0.0,)), gamma=1.0)
    assert first == pytest.approx((0.5, 0.5, 0.5), abs=1e-7)
    assert second == pytest.approx((-1.5,), abs=1e-7)


def test_advantages_are_divided_by_std_plus_a_small_number() -> None:
    small = reinforce_plus_plus(paid((2e-8,), (0.0,)), gamma=1.0)
    assert small[0][0] == pytest.approx(1e-8 / (math.sqrt(2) * 1e-8 + 1e-8), rel=1e-9)


def test_equal_returns_and_a_lone_step_teach_nothing() -> None:
    assert reinforce_plus_plus(paid((0.3,), (0.3,), (0.3,)), gamma=0.9) == [(0.0,), (0.0,), (0.0,)]
    assert reinforce_plus_plus(paid((5.0,)), gamma=0.9) == [(0.0,)]
    assert reinforce_plus_plus(paid(), gamma=0.9) == []
    assert reinforce_plus_plus(paid(()), gamma=0.9) == [()]


def test_the_order_of_the_episodes_changes_nothing() -> None:
    rewards = [(0.1 * index, 0.7 / (index + 1)) for index in range(50)]
    forward = reinforce_plus_plus(paid(*rewards), gamma=0.95)
    assert reinforce_plus_plus(paid(*rewards[::-1]), gamma=0.95) == forward[::-1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        reinforce_plus_plus(paid((0.0, bad), (1.0,)), gamma=0.95)


def test_shuffling_moves_whole_outcomes_to_last_steps() -> None:
    rewards = [(0.1, 0.9), (0.0, 0.0, 0.25), (), (0.5,)]
    shuffled = [attempt.rewards for attempt in shuffle_rewards(paid(*rewards), seed=3)]
    assert [len(episode) for episode in shuffled] == [2, 3, 0, 1]
    assert all(reward == 0.0 for episode in shuffled for reward in episode[:-1])
    assert sorted(episode[-1] for episode in shuffled if episode) == [0.25, 0.5, 1.0]


def test_shuffling_follows_its_seed_and_leaves_no_relation() -> None:
    rewards = [(float(index),) for index in range(1000)]
    first, again, other = (
        [attempt.rewards for attempt in shuffle_rewards(paid(*rewards), seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    values = [episode[0] for episode in first]
    mean = sum(values) / len(values)
    covariance = sum((index - mean) * (value - mean) for index, value in enumerate(values)) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    assert abs(covariance / variance) < 0.1
