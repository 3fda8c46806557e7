"""Pure scorers: they map a task and an episode to a reward for every step."""

from lzero.rewards.answers import contains, exact_match, f1, normalize
from lzero.rewards.l0 import make_reward

BUILT_IN = {
    "outcome": "lzero.rewards.outcome:outcome_reward",
    "reasoning_gym": "lzero.data.reasoning_gym:score",
    "simpleqa": "lzero.rewards.simpleqa:graded",
}
"""Rewards that `reward.function` names → import path."""

__all__ = ["BUILT_IN", "contains", "exact_match", "f1", "make_reward", "normalize"]
