"""GRPO: the episode's total reward, standardised within its group."""

from collections.abc import Sequence

from lzero.algo.credit import Advantages, Estimator, Trajectory, per_group, standardised


class GRPO(Estimator):
    """Every step of an episode has the same advantage."""

    name = "grpo"
    source = "arXiv 2402.03300"
    formula = "(R − mean) / (std + 1e-4)"
    over = "the group's episodes"

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        return per_group(trajectories, standardised)
