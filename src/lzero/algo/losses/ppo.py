"""PPO: the advantage times the clipped ratio to the policy before the update."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, Self

import pydantic
import torch
from pydantic import Field
from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.algo.loss import RatioLoss, ratio
from lzero.algo.metrics import Metric, Metrics
from lzero.config.base import Fraction

if TYPE_CHECKING:
    from lzero.config import Config


class PPO(RatioLoss):
    """Clips the ratio below and above (DAPO), and limits the loss of bad actions (dual clip)."""

    name = "ppo"
    source = "PPO, arXiv 1707.06347; two bounds: DAPO, arXiv 2503.14476; dual clip: arXiv 1912.09729"
    formula = "min(ρ A, clip(ρ, 1 − `clip_low`, 1 + `clip_high`) A); where A < 0: max(that, `dual_clip` · A)"

    ratio: Literal["token", "step", "episode"] = "token"
    """Unit of one ratio: a token, a step, or an episode (GSPO)."""
    clip_low: Fraction = 0.2
    """No gradient where the advantage is negative and the ratio is below 1 − clip_low."""
    clip_high: Annotated[float, Field(ge=0.0)] = 0.25
    """No gradient where the advantage is positive and the ratio is above 1 + clip_high."""
    dual_clip: Annotated[float, Field(ge=0.0)] = 3.0
    """Limit of the loss of a bad action, as a multiple of its advantage; 0: no limit."""

    @pydantic.model_validator(mode="after")
    def _bad_actions_have_a_gradient(self) -> Self:
        if 0 < self.dual_clip <= 1:
            raise ValueError(
                f"dual_clip = {self.dual_clip} would clip bad actions at a ratio of 1, so nothing would be learned from them: "
                "set it above 1, or to 0 for no limit"
            )
        return self

    @property
    def keeps_episodes_whole(self) -> bool:
        return self.ratio == "episode"

    def complaints(self, config: "Config") -> Iterator[str]:
        if config.rollout.max_lag > 0 and self.ratio == "episode":
            yield (
                f'algo.loss_options.ratio = "episode" compares whole episodes, whose policies differ more with each step of lag '
                f'(rollout.max_lag = {config.rollout.max_lag}): use "token" or "step"'
            )

    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        advantages = micro.advantages.to(policy.dtype)
        ratios = ratio(policy, micro, self.ratio)
        held = ratios.clamp(1.0 - self.clip_low, 1.0 + self.clip_high)
        surrogate = torch.minimum(ratios * advantages, held * advantages)
        if self.dual_clip > 0:
            surrogate = torch.where(advantages < 0, torch.maximum(surrogate, self.dual_clip * advantages), surrogate)
        return surrogate, self._clip_metrics(ratios.detach(), micro)

    def _clip_metrics(self, ratios: Tensor, micro: MicroBatch) -> Metrics:
        """Return the shares of the batch whose gradient a clip removes, and the extremes of the ratio."""
        weights, advantages = micro.weights.to(ratios.dtype), micro.advantages.to(ratios.dtype)
        cut = {
            "train/clipped_low": (ratios < 1.0 - self.clip_low) & (advantages < 0),
            "train/clipped_high": (ratios > 1.0 + self.clip_high) & (advantages > 0),
        }
        if self.dual_clip > 0:
            cut["train/clipped_dual"] = (ratios > self.dual_clip) & (advantages < 0)
        metrics = {name: Metric.mean(where, weights) for name, where in cut.items()}
        metrics["train/masked"] = Metric.mean(torch.stack(tuple(cut.values())).any(dim=0), weights)
        if len(ratios):
            metrics |= {"train/ratio_max": Metric.max(ratios), "train/ratio_inverse_max": Metric.max(1.0 / ratios)}
        return metrics
