"""IcePop: the ratio times the advantage, for tokens whose ratio is within two bounds."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.algo.loss import RatioLoss, ratio
from lzero.algo.metrics import Metric, Metrics
from lzero.config.base import Fraction


class IcePop(RatioLoss):
    """Leaves out tokens on which the two policies disagree too much, whatever their advantage."""

    name = "icepop"
    source = "IcePop, arXiv 2510.18855"
    formula = "ρ A, but 0 where ρ < `low` or ρ > `high`"

    low: Fraction = 0.5
    """Smallest ratio of a token that has a gradient."""
    high: Annotated[float, Field(ge=1.0)] = 5.0
    """Largest ratio of such a token."""

    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        ratios = ratio(policy, micro, "token")
        outside = (ratios.detach() < self.low) | (ratios.detach() > self.high)
        surrogate = (ratios * micro.advantages.to(policy.dtype)).masked_fill(outside, 0.0)
        return surrogate, {"train/masked": Metric.mean(outside, micro.weights.to(policy.dtype))}
