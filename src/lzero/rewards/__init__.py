"""Pure scorers: they map a task and an episode to a reward for every step."""

from lzero.rewards.answers import exact_match, f1, normalize
from lzero.rewards.l0 import make_reward

__all__ = ["exact_match", "f1", "make_reward", "normalize"]
