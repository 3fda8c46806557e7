"""An estimator and a loss of one's own. Nothing in lzero knows them: a configuration names them by import path."""

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from lzero import Config, Estimator, Loss
from lzero.algo.batches import MicroBatch
from lzero.algo.credit import Advantages, per_group
from lzero.algo.loss import Metrics
from lzero.types import Attempt


class Best(Estimator):
    """An episode earns `scale` times its distance to the best of its group."""

    scale: float = Field(1.0, gt=0.0, description="Factor of the distance.")

    def advantages(self, attempts: Sequence[Attempt]) -> Advantages:
        return per_group(attempts, lambda rewards: [self.scale * (reward - max(rewards)) for reward in rewards])

    def complaints(self, config: Config) -> Iterator[str]:
        yield from super().complaints(config)
        if config.algo.entropy_coef == 0:
            yield "Best only ever pushes down, so it needs algo.entropy_coef above 0"


class Squashed(Loss):
    """PPO's ratio, squashed smoothly where PPO clips it."""

    width: float = Field(0.2, gt=0.0, description="Distance of the ratio from 1 beyond which little is gained.")

    @property
    def scores_old_policy(self) -> bool:
        return True

    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        """Return A · (1 + w tanh((ρ − 1) / w)) of each action token [N]."""
        ratios = (policy - micro.old_logprobs).exp()
        moved = self.width * torch.tanh((ratios - 1.0) / self.width)
        return micro.advantages * (1.0 + moved), {"train/squashed": (micro.weights * moved.detach().abs()).sum()}
