"""Every estimator against numbers worked out by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from lzero.algo.credit import (
    Advantages,
    Estimator,
    Trajectory,
    built_in_estimators,
    credit,
    make_estimator,
    returns_to_go,
    shuffle_rewards,
)
from lzero.algo.estimators.dr_grpo import DrGRPO
from lzero.algo.estimators.gigpo import GiGPO
from lzero.algo.estimators.grpo import GRPO
from lzero.algo.estimators.reinforce_pp import ReinforcePP
from lzero.algo.estimators.reinforce_pp_baseline import ReinforcePPBaseline
from lzero.algo.estimators.rloo import RLOO
from lzero.config import AlgoConfig
from lzero.errors import ConfigError, CreditError

BUILT_IN = built_in_estimators()
CRITICLESS = {name: estimator for name, estimator in BUILT_IN.items() if not estimator.needs_values}
"""The others are in test_gae.py."""


def reinforce_plus_plus(trajectories: Sequence[Trajectory], *, gamma: float) -> Advantages:
    return credit(ReinforcePP(gamma=gamma), trajectories)


def paid(*rewards: tuple[float, ...], groups: str = "") -> list[Trajectory]:
    """Return trajectories at tasks that letters name (all at one task, if none are named)."""
    return [
        Trajectory(group=group, rewards=own, states=tuple(map(str, range(len(own)))))
        for own, group in zip(rewards, groups or "a" * len(rewards), strict=True)
    ]


def near(expected: Sequence[tuple[float, ...]]) -> Any:
    """Return an approximation that allows for rounding."""
    return [pytest.approx(own) for own in expected]


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
    shuffled = [trajectory.rewards for trajectory in shuffle_rewards(paid(*rewards), seed=3)]
    assert [len(episode) for episode in shuffled] == [2, 3, 0, 1]
    assert all(reward == 0.0 for episode in shuffled for reward in episode[:-1])
    assert sorted(episode[-1] for episode in shuffled if episode) == [0.25, 0.5, 1.0]


def test_shuffling_follows_its_seed_and_leaves_no_relation() -> None:
    rewards = [(float(index),) for index in range(1000)]
    first, again, other = (
        [trajectory.rewards for trajectory in shuffle_rewards(paid(*rewards), seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    values = [episode[0] for episode in first]
    mean = sum(values) / len(values)
    covariance = sum((index - mean) * (value - mean) for index, value in enumerate(values)) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    assert abs(covariance / variance) < 0.1


# Two tasks. Totals a: 1, 0, 0.5; b: 2, 0.
TASKS = paid((0.25, 0.75), (0.0,), (0.5,), (2.0,), (0.0, 0.0), groups="aaabb")


def test_grpo_normalises_the_total_within_its_group() -> None:
    # a: mean 0.5, unbiased std 0.5; b: mean 1, std √2. Both plus 1e-4.
    high, one = 0.5 / (0.5 + 1e-4), 1.0 / (math.sqrt(2) + 1e-4)
    assert credit(GRPO(), TASKS) == near([(high, high), (-high,), (0.0,), (one,), (-one, -one)])


def test_dr_grpo_takes_off_the_mean_and_divides_by_nothing() -> None:
    assert credit(DrGRPO(), TASKS) == near([(0.5, 0.5), (-0.5,), (0.0,), (1.0,), (-1.0, -1.0)])


def test_rloo_takes_off_the_mean_of_the_others() -> None:
    # a: 1 − 0.25, 0 − 0.75, 0.5 − 0.5; b: 2 − 0, 0 − 2.
    assert credit(RLOO(), TASKS) == near([(0.75, 0.75), (-0.75,), (0.0,), (2.0,), (-2.0, -2.0)])


def test_reinforce_plus_plus_with_baseline_takes_off_the_groups_mean_first() -> None:
    # Returns with γ = 0.5 — a: .625 .75 | 0 | .5, mean .46875; b: 2 | 0 0, mean 2/3. Then mean 0 over all seven steps.
    returns = [(0.625, 0.75), (0.0,), (0.5,), (2.0,), (0.0, 0.0)]
    centred = [tuple(value - (0.46875 if place < 3 else 2 / 3) for value in own) for place, own in enumerate(returns)]
    std = math.sqrt(sum(value**2 for own in centred for value in own) / 6)
    expected = [tuple(value / (std + 1e-8) for value in own) for own in centred]
    assert credit(ReinforcePPBaseline(gamma=0.5), TASKS) == near(expected)


def test_for_episodes_of_one_step_the_baseline_is_the_mean_reward_of_the_group() -> None:
    trajectories = paid((1.0,), (0.0,), (0.5,), (3.0,), groups="aabb")
    centred = [0.5, -0.5, -1.25, 1.25]
    std = math.sqrt(sum(value**2 for value in centred) / 3)
    expected = [(value / (std + 1e-8),) for value in centred]
    assert credit(ReinforcePPBaseline(gamma=0.95), trajectories) == near(expected)


def test_gigpo_adds_how_a_step_did_among_steps_from_one_state() -> None:
    # All three begin at s. Two meet u, one of them twice; nobody else meets v. With γ = 0.5 the returns are
    # first (s u): .5 1 · second (s v): .25 .5 · third (s u u): 0 0 0.
    trajectories = [
        Trajectory(group="a", rewards=(0.0, 1.0), states=("s", "u")),
        Trajectory(group="a", rewards=(0.0, 0.5), states=("s", "v")),
        Trajectory(group="a", rewards=(0.0, 0.0, 0.0), states=("s", "u", "u")),
        Trajectory(group="b", rewards=(7.0,), states=("s",)),  # the same words at another task are another state
    ]
    whole = [0.5 / 0.5001, 0.0, -0.5 / 0.5001, 0.0]
    at_s = [0.25 / 0.2501, 0.0, -0.25 / 0.2501]  # mean .25, std .25
    std = math.sqrt((4 / 9 + 1 / 9 + 1 / 9) / 2)  # of 1, 0, 0
    at_u = [(2 / 3) / (std + 1e-4), -(1 / 3) / (std + 1e-4)]
    expected = [
        (whole[0] + 2 * at_s[0], whole[0] + 2 * at_u[0]),
        (whole[1] + 2 * at_s[1], whole[1]),
        (whole[2] + 2 * at_s[2], whole[2] + 2 * at_u[1], whole[2] + 2 * at_u[1]),
        (0.0,),
    ]
    assert credit(GiGPO(gamma=0.5, step_weight=2.0), trajectories) == near(expected)


@pytest.mark.parametrize("estimator", CRITICLESS.values(), ids=CRITICLESS)
def test_every_estimator_gives_each_step_a_number(estimator: type[Estimator]) -> None:
    trajectories = [*paid((0.0, 1.0), (0.5,), ()), *paid((1.0,), groups="z")]
    advantages = credit(estimator(), trajectories)
    assert [len(own) for own in advantages] == [2, 1, 0, 1]
    assert all(math.isfinite(value) for own in advantages for value in own)
    assert credit(estimator(), trajectories[::-1]) == advantages[::-1]
    with pytest.raises(ValueError, match="not finite"):
        credit(estimator(), paid((0.0, math.nan), (1.0,)))


@pytest.mark.parametrize("estimator", [GRPO(), DrGRPO(), RLOO()])
def test_a_group_that_agrees_teaches_nothing(estimator: Estimator) -> None:
    assert credit(estimator, paid((0.5,), (0.25, 0.25), (0.5,))) == [(0.0,), (0.0, 0.0), (0.0,)]
    assert credit(estimator, paid((0.5,))) == [(0.0,)]


def test_a_configuration_names_an_estimator_and_its_options() -> None:
    algo = AlgoConfig(estimator="gigpo", estimator_options={"step_weight": 2})
    assert make_estimator(algo) == GiGPO(gamma=0.95, step_weight=2.0)
    assert list(BUILT_IN) == [
        *("bilevel_gae", "dr_grpo", "gae", "gigpo", "grpo", "reinforce++", "reinforce++_baseline", "rloo"),
    ]


class Best(Estimator):
    """An estimator of one's own: an episode earns its distance to the best of its group."""

    scale: float = 1.0

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        best = {trajectory.group: 0.0 for trajectory in trajectories}
        for trajectory in trajectories:
            best[trajectory.group] = max(best[trajectory.group], sum(trajectory.rewards))
        return [
            (self.scale * (sum(trajectory.rewards) - best[trajectory.group]),) * len(trajectory.rewards)
            for trajectory in trajectories
        ]


class WithoutAFormula(Estimator):
    pass


class OneNumberAnEpisode(Estimator):
    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        return [(0.0,) for _ in trajectories]


class Nothing(Estimator):
    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        return None  # type: ignore[return-value]


def test_an_estimator_of_ones_own_is_named_by_its_import_path() -> None:
    algo = AlgoConfig(estimator=f"{__name__}:Best", estimator_options={"scale": 2.0})
    assert credit(make_estimator(algo), paid((1.0, 0.0), (0.0,))) == [(0.0, 0.0), (-2.0,)]


@pytest.mark.parametrize(
    ("estimator", "options", "told"),
    [
        ("grpoo", {}, 'algo.estimator = "grpoo": did you mean "grpo"?'),
        (
            "grpo",
            {"gamma": 0.9},
            "unknown key 'algo.estimator_options.gamma': algo.estimator = \"grpo\" has no options",
        ),
        (
            "gigpo",
            {"gama": 0.9},
            "unknown key 'algo.estimator_options.gama': algo.estimator = \"gigpo\" has the options gamma, step_weight",
        ),
        ("gigpo", {"step_weight": 0}, "algo.estimator_options.step_weight = 0: Input should be greater than 0"),
        (f"{__name__}:Bost", {}, "did you mean 'Best'?"),
        (f"{__name__}:paid", {}, "is not a subclass of lzero.algo.credit.Estimator"),
        (f"{__name__}:WithoutAFormula", {}, "does not define advantages"),
    ],
)
def test_what_is_no_estimator_or_option_is_named(estimator: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_estimator(AlgoConfig(estimator=estimator, estimator_options=options))
    assert told in str(refused.value)


@pytest.mark.parametrize("estimator", [OneNumberAnEpisode(), Nothing()])
def test_what_is_not_an_advantage_for_each_step_is_an_error_that_says_what_is(estimator: Estimator) -> None:
    with pytest.raises(CreditError, match=r"returned .* but the episodes have \[2, 1\] steps: return a list"):
        credit(estimator, paid((1.0, 0.0), (0.0,)))


class DividesByZero(Estimator):
    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        return [(1 / 0,)]


class Texts(Estimator):
    def advantages(self, trajectories: Sequence[Trajectory]) -> Any:
        return [("a",) * len(trajectory.rewards) for trajectory in trajectories]


class NotANumber(Estimator):
    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        return [(math.nan,) * len(trajectory.rewards) for trajectory in trajectories]


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (
            DividesByZero(),
            r"test_estimators.DividesByZero raised ZeroDivisionError: .* \(test_estimators.py, line \d+\)",
        ),
        (Texts(), "test_estimators.Texts raised ValueError: could not convert"),
        (NotANumber(), "NotANumber returned advantages that are not finite"),
    ],
)
def test_an_estimator_that_fails_is_named_with_the_line_of_its_code(estimator: Estimator, told: str) -> None:
    with pytest.raises(CreditError, match=told):
        credit(estimator, paid((1.0, 0.0), (0.0,)))
