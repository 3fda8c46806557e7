"""GiGPO: GRPO's advantage of the episode, plus an advantage of the step relative to the group's steps from the same state."""

from collections.abc import Sequence
from itertools import chain

from pydantic import Field

from lzero.algo.credit import Advantages, Attempt, DiscountedEstimator, per_group, per_key, returns, standardised


class GiGPO(DiscountedEstimator):
    """A step with a state that occurs only once in its group has only the episode's advantage."""

    name = "gigpo"
    source = "arXiv 2505.10978"
    formula = "that of `grpo`, plus `step_weight` · (R_t − mean) / (std + 1e-4)"
    over = "steps of the group that were taken from the same state"

    step_weight: float = Field(1.0, gt=0.0)
    """Weight of the step's advantage, added to the episode's."""

    def advantages(self, attempts: Sequence[Attempt]) -> Advantages:
        states = [(attempt.group, state) for attempt in attempts for state in attempt.states]
        of_steps = iter(per_key(states, list(chain(*returns(attempts, self.gamma))), standardised))
        of_episodes = per_group(attempts, standardised)
        return [tuple(whole + self.step_weight * next(of_steps) for whole in own) for own in of_episodes]
