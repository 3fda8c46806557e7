"""Rewards in, advantages out, one number a step. Pure Python: a batch has a few thousand steps.

L0's estimator (arXiv 2506.23667): the return over steps, `R_t = Σ_{t'≥t} γ^(t'-t) r_t'`, then REINFORCE++,
`A_t = (R_t − mean) / (std + 1e-8)`, with mean and unbiased std over all steps of all episodes of the batch. No group baseline,
no critic.
"""

import math
import random
from collections.abc import Sequence


def returns_to_go(rewards: Sequence[float], *, gamma: float) -> tuple[float, ...]:
    """`R_t = r_t + γ R_{t+1}` of one episode: rewards (1, 2, 4) with γ = 0.5 give (3, 4, 4)."""
    returns: list[float] = []
    following = 0.0
    for reward in reversed(rewards):
        following = reward + gamma * following
        returns.append(following)
    return tuple(reversed(returns))


def reinforce_plus_plus(rewards: Sequence[Sequence[float]], *, gamma: float) -> list[tuple[float, ...]]:
    """Rewards per step of each episode of a batch → advantages per step of each episode (an `AdvantageFn` once γ is bound).

    Sums are exact (`math.fsum`), so the order of the episodes changes nothing. One step alone, or returns that are all
    equal, give advantages of zero. Raises ValueError for a reward that is not finite.
    """
    for episode in rewards:
        if not all(math.isfinite(reward) for reward in episode):
            raise ValueError(f"rewards {tuple(episode)} are not finite")
    returns = [returns_to_go(episode, gamma=gamma) for episode in rewards]
    everything = [value for episode in returns for value in episode]
    if len(everything) < 2:
        return [(0.0,) * len(episode) for episode in returns]
    mean = math.fsum(everything) / len(everything)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in everything) / (len(everything) - 1))
    return [tuple((value - mean) / (std + 1e-8) for value in episode) for episode in returns]


def shuffle_rewards(rewards: Sequence[Sequence[float]], *, seed: int) -> list[tuple[float, ...]]:
    """The control experiment: rewards change places among the episodes of a batch.

    Episodes differ in length, so what moves is an episode's outcome: its total reward, all paid on the last step of the
    episode that receives it. The outcomes of the batch stay the same as a collection; which episode got which is chance, so
    nothing an agent did can explain what it was paid. What is left is the discount: early steps of long episodes see a
    smaller return, in this control as in training.
    """
    with_steps = [index for index, episode in enumerate(rewards) if episode]
    outcomes = [math.fsum(rewards[index]) for index in with_steps]
    random.Random(seed).shuffle(outcomes)
    shuffled = [(0.0,) * len(episode) for episode in rewards]
    for index, outcome in zip(with_steps, outcomes, strict=True):
        shuffled[index] = (*shuffled[index][:-1], outcome)
    return shuffled
