"""GiGPO: GRPO's advantage of the episode, plus an advantage of the step relative to the group's steps from the same state."""

from collections.abc import Sequence
from itertools import chain

from pydantic import Field

from lzero.algo.credit import Advantages, DiscountedEstimator, Trajectory, per_group, per_key, returns, standardised


class GiGPO(DiscountedEstimator):
    """A step with a state that occurs only once in its group has only the episode's advantage."""

    name = "gigpo"
    source = "arXiv 2505.10978"
    formula = "that of `grpo`, plus `step_weight` · (R_t − mean) / (std + 1e-4)"
    over = "steps of the group that were taken from the same state"

    step_weight: float = Field(1.0, gt=0.0)
    """Weight of the step's advantage, added to the episode's."""

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        states = [(trajectory.group, state) for trajectory in trajectories for state in trajectory.states]
        of_steps = iter(per_key(states, list(chain(*returns(trajectories, self.gamma))), standardised))
        of_episodes = per_group(trajectories, standardised)
        return [tuple(whole + self.step_weight * next(of_steps) for whole in own) for own in of_episodes]
