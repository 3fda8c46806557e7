"""Generalised advantage estimation: advantages from rewards and a critic's values. Pure Python, like `lzero.algo.credit`.

    rewards r, values V  ──▶  δ_t = r_t + γ V_{t+1} − V_t  ──▶  A_t = δ_t + γ λ A_{t+1}  ──▶  the critic's target A_t + V_t

Source: Schulman et al., "High-dimensional continuous control using generalized advantage estimation", arXiv 1506.02438. An episode has no
value after its end: the budget that ended it is in the prompt, so it is a part of the state.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from lzero.algo.algorithm import blamed
from lzero.algo.credit import (
    Advantages,
    Estimator,
    TokenValues,
    Trajectory,
    credit,
    mean,
    returns_to_go,
    standardised_over_batch,
)
from lzero.config.base import Fraction
from lzero.errors import CreditError

if TYPE_CHECKING:
    from lzero.config import Config


@dataclass(frozen=True, kw_only=True)
class Credit:
    """Credit of one episode."""

    steps: tuple[float, ...]
    """One advantage per step; the mean over its tokens, if they differ."""
    tokens: TokenValues | None = None
    """For each step, an advantage for each of its tokens; None if all of them have that of the step."""
    targets: TokenValues | None = None
    """For each step, the critic's target for each of its tokens; None without a critic."""


class ValueEstimator(Estimator):
    """Estimator that needs a critic's values (`Trajectory.values`). It also gives the critic its targets.

    A subclass in a file of `lzero.algo.estimators` is found by its `name`; a class of your own by its import path.
    """

    needs_values: ClassVar[bool] = True
    compares_episodes: ClassVar[bool] = False

    gamma: Fraction = 0.95
    """Discount of the return per step."""
    gae_lambda: Fraction = 0.95
    """Decay per step of the differences that an advantage sums up. 1: the whole return less the value; 0: one step, then the value."""
    standardise: bool = True
    """Subtract the batch's mean from all advantages, and divide them by its standard deviation + 1e-8."""

    @abstractmethod
    def token_credit(self, trajectories: Sequence[Trajectory]) -> list[Credit]:
        """Return the credit of each trajectory, with `tokens` and `targets`. All rewards and values are finite."""

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        return [credit.steps for credit in self.token_credit(trajectories)]

    def complaints(self, config: "Config") -> Iterator[str]:
        if config.critic.kind == "none":
            yield (
                f'algo.estimator = "{config.algo.estimator}" needs the values of a critic, and critic.kind = "none" makes none: '
                'set critic.kind to "model" or "head"'
            )

    def notes(self, config: "Config") -> Iterator[str]:
        if config.agent.max_steps == 1:
            for name in self.model_fields_set & {"gamma", "gae_lambda"}:
                yield f"algo.estimator_options.{name} = {getattr(self, name)} has no effect with agent.max_steps = 1"

    def _adjusted(self, advantages: Advantages) -> Advantages:
        return standardised_over_batch(advantages) if self.standardise else advantages


def credit_with_values(estimator: Estimator, trajectories: Sequence[Trajectory]) -> list[Credit]:
    """Return the credit of each trajectory, by an estimator of either kind.

    Raises ValueError for a reward or a value that is not finite, and CreditError if the estimator raises anything or does not return a
    finite number for each step or token.
    """
    if not isinstance(estimator, ValueEstimator):
        return [Credit(steps=steps) for steps in credit(estimator, trajectories)]
    for trajectory in trajectories:
        if not all(map(math.isfinite, chain(trajectory.rewards, *(trajectory.values or ())))):
            raise ValueError(f"rewards {trajectory.rewards} or values {trajectory.values} are not finite")
    with blamed(estimator, CreditError):
        found = estimator.token_credit(trajectories)
        shapes = [[len(own.steps), *([*map(len, part or ())] for part in (own.tokens, own.targets))] for own in found]
        numbers = list(chain(*(chain(own.steps, *(own.tokens or ()), *(own.targets or ())) for own in found)))
        are_finite = all(map(math.isfinite, numbers))
    lengths = [[*map(len, trajectory.values or ())] for trajectory in trajectories]
    if shapes != [[len(own), own, own] for own in lengths] or not are_finite:
        raise CreditError(
            f"the estimator {type(estimator).__name__} did not return a finite advantage for each step, and a finite advantage and target "
            "for each token: return a Credit for each episode, with one tuple per step in `tokens` and in `targets`"
        )
    return found


def gae(rewards: Sequence[float], values: Sequence[float], *, gamma: float, gae_lambda: float) -> tuple[float, ...]:
    """Return the advantages of one sequence, after whose end the value is 0 (equations 11 and 16 of the paper).

    Rewards (0, 1), values (.5, .5), γ = 1 and λ = .5: the differences are (0, .5), and the advantages (.25, .5).
    """
    following = (*values[1:], 0.0)[: len(values)]
    differences = [
        reward + gamma * after - value for reward, value, after in zip(rewards, values, following, strict=True)
    ]
    return returns_to_go(differences, gamma=gamma * gae_lambda)


def sums(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    """Return the sums of two sequences, element by element."""
    return tuple(own + its for own, its in zip(one, other, strict=True))


def explained_variance(values: Sequence[float], targets: Sequence[float]) -> float | None:
    """Return 1 − Var(target − value) / Var(target): 1 for a perfect critic, 0 for one that knows the mean only; negative: worse than that.

    None if all targets are equal.
    """
    if len(set(targets)) < 2:
        return None
    errors = [target - value for value, target in zip(values, targets, strict=True)]
    return 1.0 - _variance(errors) / _variance(targets)


def _variance(values: Sequence[float]) -> float:
    center = mean(values)
    return math.fsum((value - center) ** 2 for value in values) / len(values)
