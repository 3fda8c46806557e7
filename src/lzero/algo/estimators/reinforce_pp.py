"""REINFORCE++ over steps: returns, normalised over the batch."""

from collections.abc import Sequence

from lzero.algo.credit import Advantages, DiscountedEstimator, normalised, returns
from lzero.types import Attempt


class ReinforcePP(DiscountedEstimator):
    """No baseline of the group, no critic: L0's."""

    name = "reinforce++"
    source = "L0, arXiv 2506.23667"
    formula = "(R_t − mean) / (std + 1e-8)"
    over = "all steps of the batch"
    compares_episodes = False

    def advantages(self, attempts: Sequence[Attempt]) -> Advantages:
        return normalised(returns(attempts, self.gamma))
