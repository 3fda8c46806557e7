"""Truncated importance sampling: the advantage times the log-probability, with a weight that is bounded."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.algo.loss import RatioLoss, ratio
from lzero.algo.metrics import Metric, Metrics


class Truncated(RatioLoss):
    """Weighs each token with its ratio, up to a bound. Every token keeps a gradient, unlike with a clip or a mask."""

    name = "truncated"
    source = "IMPALA, arXiv 1802.01561 (its ρ̄); CISPO, arXiv 2506.13585"
    formula = "sg(min(ρ, `cap`)) A log π"

    cap: Annotated[float, Field(ge=1.0)] = 2.0
    """Largest weight of a token."""

    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        ratios = ratio(policy, micro, "token").detach()
        weights = micro.weights.to(ratios.dtype)
        surrogate = ratios.clamp(max=self.cap) * micro.advantages.to(policy.dtype) * policy
        return surrogate, {"train/masked": Metric.mean(ratios > self.cap, weights)}
