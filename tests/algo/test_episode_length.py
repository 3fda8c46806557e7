"""Policies that decide how long an episode is: does an estimator prefer long or short ones against the rewards?

An episode has 1, 2 or 3 steps: after each of the first two the policy goes on, or stops. Every step is paid, and so is the end. The
expected gradient of an estimator is computed exactly, over all batches that can be drawn, and compared with that of the expected reward.
An angle of 0 means that an update follows the rewards; what else it follows is in docs/training.md ("Length").

The fault that this would find: rewards that are centred per step's number *before* they are summed up, so that each further step costs
the mean reward of a step (verl, RFC 7244).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import pytest
from builders import make_sample

from lzero.algo.batches import weigh
from lzero.algo.credit import Advantages, Estimator, TokenValues, Trajectory, built_in_estimators, credit, mean, returns
from lzero.algo.estimators.bilevel_gae import BilevelGAE
from lzero.algo.estimators.gae import GAE
from lzero.algo.estimators.rloo import RLOO
from lzero.algo.gae import credit_with_values

GO_ON = (0.6, 0.3)
"""Probability of going on after the first step, and after the second."""
PER_STEP = 0.1
Gradient = tuple[float, float]
"""By the logits of the two probabilities."""
Ends = tuple[float, float, float]
"""What an episode of 1, 2 and 3 steps is paid at its end."""
TWO_ARE_BEST: Ends = (0.2, 1.0, 0.4)
NOTHING: Ends = (0.0, 0.0, 0.0)


def rewards_of(length: int, ends: Ends) -> tuple[float, ...]:
    return (*(PER_STEP,) * (length - 1), PER_STEP + ends[length - 1])


def true_values(ends: Ends) -> tuple[float, float, float]:
    """Return the expected rewards from each step on."""
    third = PER_STEP + ends[2]
    second = PER_STEP + GO_ON[1] * third + (1 - GO_ON[1]) * ends[1]
    return PER_STEP + GO_ON[0] * second + (1 - GO_ON[0]) * ends[0], second, third


def true_gradient(ends: Ends) -> Gradient:
    """Return the gradient of the expected sum of rewards."""
    (first, second), (_, after_one, after_two) = GO_ON, true_values(ends)
    return first * (1 - first) * (after_one - ends[0]), first * second * (1 - second) * (after_two - ends[1])


def score_of(length: int) -> list[Gradient]:
    """Return the gradient of the log-probability of each step of an episode."""
    steps = [(1 - GO_ON[0], 0.0), (0.0, 1 - GO_ON[1]), (0.0, 0.0)][:length]
    if length < 3:
        steps[-1] = (-GO_ON[0], 0.0) if length == 1 else (0.0, -GO_ON[1])
    return steps


def batches(size: int) -> Iterator[tuple[float, list[int]]]:
    """Yield the probability of each batch, up to the order of its episodes, and its lengths."""
    chances = (1 - GO_ON[0], GO_ON[0] * (1 - GO_ON[1]), GO_ON[0] * GO_ON[1])
    for ones in range(size + 1):
        for twos in range(size + 1 - ones):
            counts = (ones, twos, size - ones - twos)
            ways = math.factorial(size) // math.prod(map(math.factorial, counts))
            chance = ways * math.prod(each**count for each, count in zip(chances, counts, strict=True))
            yield chance, [length for length, count in zip((1, 2, 3), counts, strict=True) for _ in range(count)]


def expected_gradient(
    estimator: Estimator,
    ends: Ends,
    size: int,
    *,
    values: Sequence[float] = (),
    weights: Callable[[list[int]], list[float]] = lambda lengths: [1.0] * len(lengths),
) -> Gradient:
    """Return the mean over batches of `Σ weight · advantage · ∇ log π(step)`; by default the gradient is summed over steps."""
    total = [0.0, 0.0]
    for chance, lengths in batches(size):
        trajectories = [trajectory(length, ends, values) for length in lengths]
        credited = [own.steps for own in credit_with_values(estimator, trajectories)]
        for length, weight, advantages in zip(lengths, weights(lengths), credited, strict=True):
            for advantage, score in zip(advantages, score_of(length), strict=True):
                for place in range(2):
                    total[place] += chance * weight * advantage * score[place]
    return total[0], total[1]


def trajectory(length: int, ends: Ends, values: Sequence[float]) -> Trajectory:
    own: TokenValues | None = tuple((value,) for value in values[:length]) if values else None
    return Trajectory(group="a", rewards=rewards_of(length, ends), states=tuple("abc"[:length]), values=own)


def angle(one: Gradient, other: Gradient) -> float:
    """Return the angle between two gradients, in degrees."""
    return abs(math.degrees(math.atan2(one[0] * other[1] - one[1] * other[0], one[0] * other[0] + one[1] * other[1])))


def options(estimator: type[Estimator], **given: Any) -> Estimator:
    """Return the estimator with these options, of those that it has, and without a discount."""
    wanted = {"gamma": 1.0, **given}
    return estimator(**{name: value for name, value in wanted.items() if name in estimator.model_fields})


EXACT = {"rloo", "dr_grpo"}
LARGE_BATCHES = {"reinforce++", "reinforce++_baseline", "grpo"}
WITH_VALUES = {"gae", "bilevel_gae"}
PER_STATE = {"gigpo"}


def test_every_estimator_is_judged() -> None:
    assert set(built_in_estimators()) == EXACT | LARGE_BATCHES | WITH_VALUES | PER_STATE


@pytest.mark.parametrize("ends", [TWO_ARE_BEST, NOTHING])
@pytest.mark.parametrize("name", sorted(EXACT))
def test_these_follow_the_rewards_in_batches_of_any_size(name: str, ends: Ends) -> None:
    for size in (2, 4):
        found = expected_gradient(options(built_in_estimators()[name]), ends, size)
        assert angle(found, true_gradient(ends)) < 1e-6


@pytest.mark.parametrize("ends", [TWO_ARE_BEST, NOTHING])
@pytest.mark.parametrize("name", sorted(LARGE_BATCHES))
def test_these_do_so_up_to_an_error_that_vanishes_in_large_batches(name: str, ends: Ends) -> None:
    """A mean that an episode is part of, with more weight the longer it is, and a standard deviation that it is part of."""
    small, large = (
        angle(expected_gradient(options(built_in_estimators()[name]), ends, size), true_gradient(ends))
        for size in (4, 16)
    )
    print(f"{name}: {small:.1f} degrees with 4 episodes, {large:.1f} with 16")
    assert small < 30
    assert large < small / 2


@pytest.mark.parametrize("ends", [TWO_ARE_BEST, NOTHING])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("name", sorted(WITH_VALUES))
def test_with_a_right_critic_these_follow_the_rewards(name: str, gae_lambda: float, ends: Ends) -> None:
    made = options(built_in_estimators()[name], gae_lambda=gae_lambda, standardise=False)
    found = expected_gradient(made, ends, 2, values=true_values(ends))
    assert angle(found, true_gradient(ends)) < 1e-6
    standardised = options(built_in_estimators()[name], gae_lambda=gae_lambda)
    small, large = (
        angle(expected_gradient(standardised, ends, size, values=true_values(ends)), true_gradient(ends))
        for size in (4, 16)
    )
    print(f"{name}, λ = {gae_lambda}: {small:.1f} degrees with 4 episodes, {large:.1f} with 16")
    assert large < max(small / 2, 1e-6)


def test_a_wrong_critic_prefers_some_length_unless_lambda_is_1() -> None:
    """A critic that expects 2 of every state: with λ = 0 it pays for going on, though two steps are best."""
    for gae_lambda, follows in ((1.0, True), (0.0, False)):
        made = GAE(gamma=1.0, gae_lambda=gae_lambda, standardise=False)
        found = expected_gradient(made, TWO_ARE_BEST, 2, values=(2.0, 2.0, 2.0))
        assert (angle(found, true_gradient(TWO_ARE_BEST)) < 1e-6) == follows
    assert true_gradient(TWO_ARE_BEST)[1] < 0 < found[1]


@pytest.mark.parametrize("ends", [TWO_ARE_BEST, NOTHING])
def test_gigpo_scales_the_gradient_of_each_state_and_turns_none_around(ends: Ends) -> None:
    right = true_gradient(ends)
    found = expected_gradient(options(built_in_estimators()["gigpo"]), ends, 16)
    print(f"gigpo: {angle(found, right):.1f} degrees with 16 episodes")
    assert all(own * its > 0 for own, its in zip(found, right, strict=True))
    assert angle(found, right) > 0.1


def test_a_long_reply_costs_bilevel_gae_what_its_discount_over_tokens_is() -> None:
    """A reply of 1 or 4 tokens, paid 1 either way: nothing prefers one of them but a discount."""

    def preference(token_gamma: float) -> float:
        """Return how much larger the advantage of the first token is if three more follow."""
        before = 0.5 * (1.0 + token_gamma**3)
        lengths = ((before,), (before, token_gamma**2, token_gamma, 1.0))
        made = BilevelGAE(gamma=1.0, token_gamma=token_gamma, standardise=False)
        trajectories = [Trajectory(group="a", rewards=(1.0,), states=("a",), values=(own,)) for own in lengths]
        short, long = (own.tokens for own in credit_with_values(made, trajectories))
        assert short is not None
        assert long is not None
        return long[0][0] - short[0][0]

    assert preference(1.0) == pytest.approx(0.0, abs=1e-12)
    assert preference(0.99) == pytest.approx(0.99**3 - 1.0)


@pytest.mark.parametrize(
    ("average", "follows"), [("constant", True), ("token", True), ("step", True), ("episode", False)]
)
def test_an_average_over_an_episodes_own_tokens_prefers_short_ones_and_others_do_not(
    average: Literal["constant", "token", "step", "episode"], follows: bool
) -> None:
    """Dr. GRPO's finding (arXiv 2503.20783): a bad episode costs less per token the longer it is."""

    def weights(lengths: list[int]) -> list[float]:
        samples = [make_sample((-1, *range(length)), name=f"t/{place}") for place, length in enumerate(lengths)]
        return [own[1] for own in weigh(samples, average=average)]

    small, large = (
        angle(expected_gradient(RLOO(), TWO_ARE_BEST, size, weights=weights), true_gradient(TWO_ARE_BEST))
        for size in (4, 16)
    )
    print(f"average = {average}: {small:.1f} degrees with 4 episodes, {large:.1f} with 16")
    assert (large < max(small / 2, 1e-6)) == follows


class CentredPerTurn(Estimator):
    """The fault: the mean reward of a step with this number is subtracted before rewards are summed up."""

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        longest = max(len(each.rewards) for each in trajectories)
        means = [
            mean([each.rewards[number] for each in trajectories if number < len(each.rewards)])
            for number in range(longest)
        ]
        centred = [
            each.paid(tuple(reward - means[number] for number, reward in enumerate(each.rewards)))
            for each in trajectories
        ]
        return returns(centred, 1.0)


def test_the_comparison_finds_a_mean_that_is_subtracted_from_every_step() -> None:
    """With nothing but pay per step, going on is right, and an estimator with this fault does not care."""
    assert min(true_gradient(NOTHING)) > 0.01
    assert expected_gradient(CentredPerTurn(), NOTHING, 4) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert angle(expected_gradient(CentredPerTurn(), TWO_ARE_BEST, 16), true_gradient(TWO_ARE_BEST)) > 10
    assert credit(CentredPerTurn(), [trajectory(1, NOTHING, ()), trajectory(3, NOTHING, ())])[1] == pytest.approx(
        (0.0,) * 3
    )
