"""Credit: the rewards of a batch in, an advantage for every step out. Pure Python: a batch has a few thousand steps.

Each estimator is a function of `Attempt`s (an episode's rewards, its group, and what it read before each step) and follows its
source. Sums are exact (`math.fsum`), so the order of the attempts changes nothing.

    estimator               source                     an action's advantage
    reinforce++             L0, arXiv 2506.23667       return over steps, normalised over all steps of the batch
    reinforce++_baseline    arXiv 2501.03262           the same, less the mean of the group's steps
    grpo                    arXiv 2402.03300           the episode's total reward, normalised within its group
    dr_grpo                 arXiv 2503.20783           the episode's total reward, less the mean of its group
    rloo                    arXiv 2402.14740           …, less the mean of the group's other episodes (LOOP, arXiv 2502.01600)
    gigpo                   arXiv 2505.10978           grpo's, plus the return over steps, normalised among steps from one state
"""

import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from itertools import chain

from lzero.config import AlgoConfig
from lzero.protocols import AdvantageFn
from lzero.types import Attempt

STD_FLOOR = 1e-8
"""L0's, added to every standard deviation."""
GROUP_STD_FLOOR = 1e-4
"""TRL's, added to that of a group: its rewards are of order 1, and differences below this are no signal."""

Advantages = list[tuple[float, ...]]
"""An advantage a step, for each attempt of a batch, in its order."""


def make_advantage_fn(algo: AlgoConfig) -> AdvantageFn:
    """The estimator that `algo.estimator` names, with its settings."""
    estimators: dict[str, AdvantageFn] = {
        "reinforce++": partial(reinforce_plus_plus, gamma=algo.gamma),
        "reinforce++_baseline": partial(reinforce_plus_plus_baseline, gamma=algo.gamma),
        "grpo": grpo,
        "dr_grpo": dr_grpo,
        "rloo": rloo,
        "gigpo": partial(gigpo, gamma=algo.gamma, step_weight=algo.step_weight),
    }
    return estimators[algo.estimator]


def returns_to_go(rewards: Sequence[float], *, gamma: float) -> tuple[float, ...]:
    """`R_t = r_t + γ R_{t+1}` of one episode: rewards (1, 2, 4) with γ = 0.5 give (3, 4, 4)."""
    returns: list[float] = []
    following = 0.0
    for reward in reversed(rewards):
        following = reward + gamma * following
        returns.append(following)
    return tuple(reversed(returns))


def reinforce_plus_plus(attempts: Sequence[Attempt], *, gamma: float) -> Advantages:
    """`A_t = (R_t − mean) / (std + 1e-8)`, with mean and unbiased std over all steps of all episodes of the batch (L0).

    No group baseline, no critic. One step alone, or returns that are all equal, give advantages of zero. Raises ValueError for a
    reward that is not finite, as every estimator here does.
    """
    return _normalised(_returns(attempts, gamma))


def reinforce_plus_plus_baseline(attempts: Sequence[Attempt], *, gamma: float) -> Advantages:
    """`R_t` less the mean of all steps of its group, then normalised over the batch as in `reinforce_plus_plus`. With episodes of one
    step this is the paper's; there, as here, what is averaged over is what has an advantage of its own."""
    returns = _returns(attempts, gamma)
    baselines = _group_means(attempts, returns)
    return _normalised(
        [
            tuple(value - baselines[attempt.group] for value in own)
            for attempt, own in zip(attempts, returns, strict=True)
        ]
    )


def grpo(attempts: Sequence[Attempt]) -> Advantages:
    """`(R − mean) / (std + 1e-4)` of the episode's total reward within its group, the same for each of its steps."""
    return _spread(attempts, _among_groups(attempts, _standard))


def dr_grpo(attempts: Sequence[Attempt]) -> Advantages:
    """`R − mean` within the group: without the division, easy and hard tasks weigh the same. Meant for `average = "constant"`."""
    return _spread(attempts, _among_groups(attempts, _centred))


def rloo(attempts: Sequence[Attempt]) -> Advantages:
    """`R` less the mean of the group's other episodes: an unbiased baseline, as it does not depend on the episode itself."""
    return _spread(attempts, _among_groups(attempts, _left_out))


def gigpo(attempts: Sequence[Attempt], *, gamma: float, step_weight: float) -> Advantages:
    """`grpo`'s advantage of the episode, plus `step_weight` times that of the step: its return, normalised among the steps of the
    group that were taken from the same state. A state that was met once says nothing about what is better there: 0."""
    states = [(attempt.group, state) for attempt in attempts for state in attempt.states]
    returns = list(chain.from_iterable(_returns(attempts, gamma)))
    of_steps = iter(_among(states, returns, _standard))
    return [tuple(whole + step_weight * next(of_steps) for whole in own) for own in grpo(attempts)]


def shuffle_rewards(attempts: Sequence[Attempt], *, seed: int) -> list[Attempt]:
    """The control experiment: rewards change places among the episodes of a batch.

    Episodes differ in length, so what moves is an episode's outcome: its total reward, all paid on the last step of the
    episode that receives it. The outcomes of the batch stay the same as a collection; which episode got which is chance, so
    nothing an agent did can explain what it was paid. What is left is the discount: early steps of long episodes see a
    smaller return, in this control as in training.
    """
    with_steps = [place for place, attempt in enumerate(attempts) if attempt.rewards]
    outcomes = [math.fsum(attempts[place].rewards) for place in with_steps]
    random.Random(seed).shuffle(outcomes)
    shuffled = list(attempts)
    for place, outcome in zip(with_steps, outcomes, strict=True):
        rewards = (0.0,) * (len(attempts[place].rewards) - 1) + (outcome,)
        shuffled[place] = attempts[place].paid(rewards)
    return shuffled


def _returns(attempts: Sequence[Attempt], gamma: float) -> Advantages:
    _check(attempts)
    return [returns_to_go(attempt.rewards, gamma=gamma) for attempt in attempts]


def _check(attempts: Sequence[Attempt]) -> None:
    for attempt in attempts:
        if not all(math.isfinite(reward) for reward in attempt.rewards):
            raise ValueError(f"rewards {attempt.rewards} are not finite")


def _normalised(values: Advantages) -> Advantages:
    everything = [value for own in values for value in own]
    if len(everything) < 2:
        return [(0.0,) * len(own) for own in values]
    mean, std = _mean(everything), _std(everything)
    return [tuple((value - mean) / (std + STD_FLOOR) for value in own) for own in values]


def _group_means(attempts: Sequence[Attempt], returns: Advantages) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for attempt, own in zip(attempts, returns, strict=True):
        groups.setdefault(attempt.group, []).extend(own)
    return {group: _mean(values) for group, values in groups.items() if values}


Compare = Callable[[Sequence[float]], list[float]]
"""Each of some values as it stands among them."""


def _among_groups(attempts: Sequence[Attempt], compare: Compare) -> list[float]:
    """Every attempt's total reward as it stands in its group. An attempt that took no step counts with its reward of zero."""
    _check(attempts)
    totals = [math.fsum(attempt.rewards) for attempt in attempts]
    return _among([attempt.group for attempt in attempts], totals, compare)


def _among(owners: Sequence[Hashable], values: Sequence[float], compare: Compare) -> list[float]:
    places: dict[Hashable, list[int]] = {}
    for place, owner in enumerate(owners):
        places.setdefault(owner, []).append(place)
    compared = [0.0] * len(values)
    for own in places.values():
        for place, value in zip(own, compare([values[place] for place in own]), strict=True):
            compared[place] = value
    return compared


def _standard(values: Sequence[float]) -> list[float]:
    if len(values) < 2:
        return [0.0] * len(values)
    mean, std = _mean(values), _std(values)
    return [(value - mean) / (std + GROUP_STD_FLOOR) for value in values]


def _centred(values: Sequence[float]) -> list[float]:
    mean = _mean(values)
    return [value - mean for value in values]


def _left_out(values: Sequence[float]) -> list[float]:
    if len(values) < 2:
        return [0.0] * len(values)
    total = math.fsum(values)
    return [value - (total - value) / (len(values) - 1) for value in values]


def _spread(attempts: Sequence[Attempt], values: Iterable[float]) -> Advantages:
    return [(value,) * len(attempt.rewards) for attempt, value in zip(attempts, values, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _std(values: Sequence[float]) -> float:
    """Unbiased."""
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
