"""REINFORCE++ over steps: returns, standardised over the batch."""

from collections.abc import Sequence

from lzero.algo.credit import Advantages, DiscountedEstimator, Trajectory, returns, standardised_over_batch


class ReinforcePP(DiscountedEstimator):
    """L0's estimator: it needs neither a baseline per group nor a critic."""

    name = "reinforce++"
    source = "L0, arXiv 2506.23667"
    formula = "(R_t − mean) / (std + 1e-8)"
    over = "all steps of the batch"
    compares_episodes = False

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        return standardised_over_batch(returns(trajectories, self.gamma))
