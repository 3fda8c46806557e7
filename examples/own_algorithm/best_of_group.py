"""An estimator and a loss outside of lzero. A configuration names them by import path: `algo.estimator=best_of_group:Best`."""

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from lzero import Config, Estimator, Loss
from lzero.algo.batches import MicroBatch
from lzero.algo.credit import Advantages, Trajectory, per_group
from lzero.algo.metrics import Metric, Metrics


class Best(Estimator):
    """The advantage is `scale` times the distance to the best episode of the group."""

    scale: float = Field(1.0, gt=0.0)
    """Factor of the distance."""

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        return per_group(trajectories, lambda rewards: [self.scale * (reward - max(rewards)) for reward in rewards])

    def complaints(self, config: Config) -> Iterator[str]:
        yield from super().complaints(config)
        if config.algo.entropy_coef == 0:
            yield "algo.entropy_coef = 0: Best never gives an advantage above 0, so it needs an entropy bonus; set it above 0"


class Squashed(Loss):
    """PPO with a smooth bound on the ratio in place of the clip."""

    width: float = Field(0.2, gt=0.0)
    """Bound on the distance of the ratio from 1."""

    @property
    def scores_old_policy(self) -> bool:
        return True

    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        """Return A · (1 + w tanh((ρ − 1) / w)) of each action token [N]."""
        ratios = (policy - micro.old_logprobs).exp()
        moved = self.width * torch.tanh((ratios - 1.0) / self.width)
        return micro.advantages * (1.0 + moved), {"train/squashed": Metric.mean(moved.abs(), micro.weights)}
