"""The policy gradient: the advantage times the log-probability."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.algo.loss import Loss
from lzero.algo.metrics import Metrics

if TYPE_CHECKING:
    from lzero.config import Config


class PolicyGradient(Loss):
    """Correct only on-policy: rejects more than one optimiser step per batch."""

    name = "policy_gradient"
    source = "L0, arXiv 2506.23667"
    formula = "A log π"

    def complaints(self, config: "Config") -> Iterator[str]:
        train = config.train
        if train.epochs * train.minibatches > 1:
            yield (
                f'algo.loss = "policy_gradient" is correct only for the policy that sampled, but train.epochs = {train.epochs} and '
                f'train.minibatches = {train.minibatches} make more than one optimiser step: leave both at 1, or use "ppo"'
            )

    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        return micro.advantages.to(policy.dtype) * policy, {}
