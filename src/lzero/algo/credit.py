"""Map the rewards of a batch to an advantage for every step. Pure Python, because a batch has only a few thousand steps.

An `Estimator` maps each `Trajectory` (an episode's rewards, its group, and what the policy read before each step) to advantages. Each
built-in estimator is one file of `lzero.algo.estimators`. Sums are exact (`math.fsum`), so the order of the trajectories changes nothing.
"""

import math
import random
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct

from lzero.algo import estimators
from lzero.algo.algorithm import Algorithm, blamed, built_in, find
from lzero.config import AlgoConfig
from lzero.config.base import Fraction
from lzero.errors import CreditError

if TYPE_CHECKING:
    from lzero.config import Config

BATCH_STD_FLOOR = 1e-8
"""L0 adds it to the standard deviation over the steps of a batch."""
GROUP_STD_FLOOR = 1e-4
"""TRL adds it to the standard deviation within a group. Rewards are of order 1, so smaller differences are no signal."""

Advantages = list[tuple[float, ...]]
"""One tuple per trajectory, in the order of the batch, with one advantage per step."""

TokenValues = tuple[tuple[float, ...], ...]
"""For each step of an episode, a number for each of its action tokens."""


class Trajectory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """An episode as the input of an estimator: `Trajectory(group="world/7", rewards=(0.1, 0.9), states=("a9…", "04…"))`."""

    group: str
    """Trajectories of one group are at the same task."""
    rewards: tuple[float, ...]
    """One number per step."""
    states: tuple[str, ...]
    """One hash per step, of what the policy had just read (the task, a cell's output); equal hashes mean equal input."""
    values: TokenValues | None = None
    """The critic's values, each of the state before a token; None if the estimator does not need them."""

    def __post_init__(self) -> None:
        if not len(self.states) == len(self.rewards) == len(self.rewards if self.values is None else self.values):
            raise ValueError(
                f"Trajectory of {self.group}: {len(self.rewards)} rewards, {len(self.states)} states, values {self.values!r:.100}"
            )

    def paid(self, rewards: tuple[float, ...]) -> "Trajectory":
        """Return a copy with other rewards."""
        return Trajectory(group=self.group, rewards=rewards, states=self.states, values=self.values)


class Estimator(Algorithm):
    """Maps the rewards of a batch to advantages.

    A subclass in a file of `lzero.algo.estimators` is found by its `name`; a class of your own by its import path.
    """

    over: ClassVar[str] = ""
    """Values over which it takes mean and standard deviation, for the documentation."""
    needs_values: ClassVar[bool] = False
    """Whether it needs the values of a critic. Only a subclass of `lzero.algo.gae.ValueEstimator` gets them."""
    compares_episodes: ClassVar[bool] = True
    """Whether it compares the episodes of a task. Training then rejects groups of one episode."""

    @abstractmethod
    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        """Return an advantage for each step of each trajectory, in the order of the trajectories. All rewards are finite."""

    def complaints(self, config: "Config") -> Iterator[str]:
        if self.compares_episodes and config.rollout.episodes_per_task == 1:
            yield (
                f'algo.estimator = "{config.algo.estimator}" compares the episodes of a task, so with rollout.episodes_per_task = 1 '
                'every advantage would be 0: set it to at least 2, or use "reinforce++"'
            )


class DiscountedEstimator(Estimator):
    """Estimator that discounts the rewards of later steps."""

    gamma: Fraction = 0.95
    """Discount of the return per step."""

    def notes(self, config: "Config") -> Iterator[str]:
        if config.agent.max_steps == 1 and "gamma" in self.model_fields_set:
            yield f"algo.estimator_options.gamma = {self.gamma} has no effect with agent.max_steps = 1"


@cache
def built_in_estimators() -> dict[str, type[Estimator]]:
    """Return the estimators of `lzero.algo.estimators` by their names."""
    return built_in(Estimator, estimators)  # type: ignore[type-abstract]


def make_estimator(algo: AlgoConfig) -> Estimator:
    """Return the estimator that `algo.estimator` names, with its options. Raises ConfigError as `find` does."""
    known = built_in_estimators()
    return find(Estimator, known, algo.estimator, algo.estimator_options, key="algo.estimator")  # type: ignore[type-abstract]


def credit(estimator: Estimator, trajectories: Sequence[Trajectory]) -> Advantages:
    """Return the estimator's advantages.

    Raises ValueError for a reward that is not finite, and CreditError if the estimator raises anything or does not return one finite
    advantage per step.
    """
    for trajectory in trajectories:
        if not all(map(math.isfinite, trajectory.rewards)):
            raise ValueError(f"rewards {trajectory.rewards} are not finite")
    name = type(estimator).__name__
    with blamed(estimator, CreditError):
        found = estimator.advantages(trajectories)
    expected, given = [len(trajectory.rewards) for trajectory in trajectories], _lengths(found)
    if given != expected:
        raise CreditError(
            f"the estimator {name} returned {given} advantages per episode, but the episodes have {expected} steps: "
            "return a list with one tuple per trajectory, and in it one number per step"
        )
    with blamed(estimator, CreditError):
        advantages = [tuple(map(float, own)) for own in found]
    if not all(map(math.isfinite, chain(*advantages))):
        raise CreditError(f"the estimator {name} returned advantages that are not finite, for finite rewards")
    return advantages


def _lengths(advantages: object) -> object:
    try:
        return [len(own) for own in advantages]  # type: ignore[attr-defined]
    except TypeError:
        return f"{advantages!r:.100}"


def returns_to_go(rewards: Sequence[float], *, gamma: float) -> tuple[float, ...]:
    """Return `R_t = r_t + γ R_{t+1}` of one episode: rewards (1, 2, 4) with γ = 0.5 give (3, 4, 4)."""
    returns: list[float] = []
    following = 0.0
    for reward in reversed(rewards):
        following = reward + gamma * following
        returns.append(following)
    return tuple(reversed(returns))


def returns(trajectories: Sequence[Trajectory], gamma: float) -> Advantages:
    """Return the discounted return of each step of each trajectory."""
    return [returns_to_go(trajectory.rewards, gamma=gamma) for trajectory in trajectories]


def standardised_over_batch(values: Advantages) -> Advantages:
    """Return `(value − mean) / (std + 1e-8)`, with mean and unbiased std over all steps of all trajectories.

    A single value, and values that are all equal, become 0.
    """
    everything = [value for own in values for value in own]
    if len(everything) < 2:
        return [(0.0,) * len(own) for own in values]
    center, spread = mean(everything), std(everything)
    return [tuple((value - center) / (spread + BATCH_STD_FLOOR) for value in own) for own in values]


Compare = Callable[[Sequence[float]], list[float]]
"""Maps values to as many numbers, for example each value's distance to their mean."""


def per_group(trajectories: Sequence[Trajectory], compare: Compare) -> Advantages:
    """Apply `compare` to the total rewards of each group's episodes; every step of an episode gets its episode's result.

    An episode without steps counts with a total reward of 0.
    """
    groups, totals = (
        [trajectory.group for trajectory in trajectories],
        [math.fsum(trajectory.rewards) for trajectory in trajectories],
    )
    compared = per_key(groups, totals, compare)
    return [(value,) * len(trajectory.rewards) for trajectory, value in zip(trajectories, compared, strict=True)]


def per_key(keys: Sequence[Hashable], values: Sequence[float], compare: Compare) -> list[float]:
    """Apply `compare` to the values of each key: keys (a, b, a) with values (1, 5, 3), less their means, give (−1, 0, 1)."""
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    compared = [0.0] * len(values)
    for own in places.values():
        for place, value in zip(own, compare([values[place] for place in own]), strict=True):
            compared[place] = value
    return compared


def standardised(values: Sequence[float]) -> list[float]:
    """Return `(value − mean) / (std + 1e-4)`; 0 for a single value."""
    if len(values) < 2:
        return [0.0] * len(values)
    center, spread = mean(values), std(values)
    return [(value - center) / (spread + GROUP_STD_FLOOR) for value in values]


def mean(values: Sequence[float]) -> float:
    """Return the mean, exactly rounded."""
    return math.fsum(values) / len(values)


def std(values: Sequence[float]) -> float:
    """Return the unbiased standard deviation of at least two values."""
    center = mean(values)
    return math.sqrt(math.fsum((value - center) ** 2 for value in values) / (len(values) - 1))


def shuffle_rewards(trajectories: Sequence[Trajectory], *, seed: int) -> list[Trajectory]:
    """Permute total rewards among the episodes of a batch: the control experiment.

    Each episode receives the total reward of a random one, paid on its last step, because episodes differ in length. No reward then
    depends on what its episode did. The discount stays: early steps of long episodes have a smaller return, as in training.
    """
    with_steps = [place for place, trajectory in enumerate(trajectories) if trajectory.rewards]
    outcomes = [math.fsum(trajectories[place].rewards) for place in with_steps]
    random.Random(seed).shuffle(outcomes)
    shuffled = list(trajectories)
    for place, outcome in zip(with_steps, outcomes, strict=True):
        rewards = (0.0,) * (len(trajectories[place].rewards) - 1) + (outcome,)
        shuffled[place] = trajectories[place].paid(rewards)
    return shuffled
