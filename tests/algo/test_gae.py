"""GAE over steps, and over steps and tokens, against numbers worked out by hand; and the critic's targets."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lzero.algo.credit import TokenValues, Trajectory, returns_to_go
from lzero.algo.estimators.bilevel_gae import BilevelGAE
from lzero.algo.estimators.gae import GAE
from lzero.algo.gae import Credit, ValueEstimator, credit_with_values, explained_variance, gae
from lzero.errors import CreditError

RAW = {"standardise": False}


def trajectory(rewards: Sequence[float], values: TokenValues) -> Trajectory:
    return Trajectory(group="a", rewards=tuple(rewards), states=("",) * len(rewards), values=values)


def near(expected: TokenValues) -> Any:
    return tuple(pytest.approx(own) for own in expected)


def test_an_advantage_sums_up_the_differences_between_what_happens_and_what_was_expected() -> None:
    # γ = .5, λ = .5. δ: 1 + .5·4 − 2 = 1; 0 + .5·6 − 4 = −1; 2 − 6 = −4. A: −4; −1 − .25·4 = −2; 1 − .25·2 = .5.
    assert gae((1.0, 0.0, 2.0), (2.0, 4.0, 6.0), gamma=0.5, gae_lambda=0.5) == pytest.approx((0.5, -2.0, -4.0))
    assert gae((1.0, 0.0, 2.0), (2.0, 4.0, 6.0), gamma=0.5, gae_lambda=0.0) == pytest.approx((1.0, -1.0, -4.0))
    assert gae((), (), gamma=0.5, gae_lambda=0.5) == ()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=6), st.floats(0, 1))
def test_with_lambda_1_an_advantage_is_the_return_less_the_value(
    pairs: list[tuple[float, float]], gamma: float
) -> None:
    rewards, values = zip(*pairs, strict=True)
    expected = [total - value for total, value in zip(returns_to_go(rewards, gamma=gamma), values, strict=True)]
    assert gae(rewards, values, gamma=gamma, gae_lambda=1.0) == pytest.approx(expected, abs=1e-9)


def test_steps_are_judged_by_the_value_before_their_first_token() -> None:
    # V = (2, 4): δ = 1 + .5·4 − 2 = 1 and 3 − 4 = −1. A = 1 − .25 = .75 and −1. Targets A + V = 2.75 and 3.
    (found,) = credit_with_values(
        GAE(gamma=0.5, gae_lambda=0.5, **RAW), [trajectory((1.0, 3.0), ((2.0, 9.0), (4.0, 8.0, 7.0)))]
    )
    assert found.steps == pytest.approx((0.75, -1.0))
    assert found.tokens == near(((0.75,) * 2, (-1.0,) * 3))
    assert found.targets == near(((2.75,) * 2, (3.0,) * 3))


def test_bilevel_gae_puts_the_return_of_a_step_on_its_last_token_and_begins_anew_at_each_step() -> None:
    # L0's constants. Values before the last tokens: .4, .6. δ = 0 + .95·.6 − .4 = .17 and 1 − .6 = .4.
    # Steps: A = .17 + .9025·.4 = .531 and .4, so returns .931 and 1.
    # Tokens of step 0: .931 − .4 = .531; δ = .99·.4 − .2 = .196, A = .196 + .9801·.531. Of step 1: .4; .99·.6 − .5 + .9801·.4.
    (found,) = credit_with_values(BilevelGAE(**RAW), [trajectory((0.0, 1.0), ((0.2, 0.4), (0.5, 0.6)))])
    tokens = ((0.196 + 0.9801 * 0.531, 0.531), (0.094 + 0.9801 * 0.4, 0.4))
    assert found.tokens == near(tokens)
    assert found.targets == near(((0.2 + tokens[0][0], 0.931), (0.5 + tokens[1][0], 1.0)))
    assert found.steps == pytest.approx([sum(own) / 2 for own in tokens])


def test_for_steps_of_one_token_both_levels_are_one() -> None:
    trajectories = [trajectory((0.5, -1.0, 2.0), ((0.3,), (0.1,), (-0.7,))), trajectory((1.0,), ((0.2,),))]
    assert credit_with_values(BilevelGAE(), trajectories) == credit_with_values(GAE(), trajectories)


def test_advantages_are_standardised_over_steps_or_over_tokens_and_targets_are_not() -> None:
    trajectories = [trajectory((1.0,), ((0.0, 0.0, 0.0),)), trajectory((0.0,), ((0.0,),))]
    of_steps = credit_with_values(GAE(), trajectories)  # 1 and 0: mean .5, std √.5
    assert [own.steps[0] for own in of_steps] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], abs=1e-6)
    of_tokens = credit_with_values(
        BilevelGAE(token_gamma=1.0, token_lambda=1.0), trajectories
    )  # 1, 1, 1 and 0: mean .75, std .5
    assert [own.steps[0] for own in of_tokens] == pytest.approx([0.5, -1.5], abs=1e-6)
    assert [own.targets for own in of_tokens] == [own.targets for own in of_steps] == [((1.0, 1.0, 1.0),), ((0.0,),)]


@pytest.mark.parametrize("estimator", [GAE(), BilevelGAE()])
def test_episodes_without_steps_and_steps_without_tokens_break_nothing(estimator: ValueEstimator) -> None:
    found = credit_with_values(estimator, [trajectory((), ()), trajectory((0.0, 1.0), ((0.5,), ()))])
    assert [list(map(len, own.tokens or ())) for own in found] == [[], [1, 0]]
    assert credit_with_values(estimator, []) == []


@pytest.mark.parametrize("bad", [trajectory((math.nan,), ((0.0,),)), trajectory((0.0,), ((math.inf,),))])
def test_a_reward_or_a_value_that_is_no_number_is_refused(bad: Trajectory) -> None:
    with pytest.raises(ValueError, match="not finite"):
        credit_with_values(GAE(), [bad])


def test_values_are_for_the_steps_of_the_episode() -> None:
    with pytest.raises(ValueError, match="2 rewards"):
        trajectory((0.0, 1.0), ((0.5,),))


class NoTargets(ValueEstimator):
    def token_credit(self, trajectories: Sequence[Trajectory]) -> list[Credit]:
        return [Credit(steps=each.rewards, tokens=each.values) for each in trajectories]


class NotANumber(ValueEstimator):
    def token_credit(self, trajectories: Sequence[Trajectory]) -> list[Credit]:
        return [
            Credit(steps=(math.nan,) * len(each.rewards), tokens=each.values, targets=each.values)
            for each in trajectories
        ]


@pytest.mark.parametrize("estimator", [NoTargets(), NotANumber()])
def test_an_estimator_of_ones_own_gives_each_token_an_advantage_and_a_target(estimator: ValueEstimator) -> None:
    with pytest.raises(
        CreditError, match="did not return a finite advantage for each step, and a finite advantage and target"
    ):
        credit_with_values(estimator, [trajectory((1.0,), ((0.0, 0.0),))])


def test_explained_variance_is_1_for_a_perfect_critic_and_0_for_one_that_knows_the_mean() -> None:
    targets = (0.0, 1.0, 2.0)
    assert explained_variance(targets, targets) == 1.0
    assert explained_variance((1.0, 1.0, 1.0), targets) == 0.0
    assert explained_variance((2.0, 1.0, 0.0), targets) == pytest.approx(-3.0)
    assert explained_variance((0.0, 1.0), (0.5, 0.5)) is None
