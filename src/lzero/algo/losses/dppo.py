"""DPPO: the ratio times the advantage, for tokens whose probability has not moved too far in that direction."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.algo.loss import RatioLoss, ratio
from lzero.algo.metrics import Metric, Metrics


class DPPO(RatioLoss):
    """Bounds the change of a token's probability, not its ratio: the total variation of the distribution "this token or another".

    The ratio of a rare token is large even if the change hardly matters; that of a frequent token is small even if it does.
    """

    name = "dppo"
    source = "DPPO (binary total variation), arXiv 2602.04879"
    formula = "ρ A, but 0 where (π − π_old) sign(A) > `threshold`"

    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Largest change of a token's probability in the direction of its advantage."""

    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        advantages = micro.advantages.to(policy.dtype)
        moved = policy.detach().exp() - micro.old_logprobs.to(policy.dtype).exp()
        outside = moved * advantages.sign() > self.threshold
        surrogate = (ratio(policy, micro, "token") * advantages).masked_fill(outside, 0.0)
        return surrogate, {"train/masked": Metric.mean(outside, micro.weights.to(policy.dtype))}
