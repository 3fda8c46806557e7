"""The optimizer of most tests."""

from typing import TYPE_CHECKING

from torch.optim import Optimizer

from lzero.config import TrainConfig
from lzero.train.optimizers import make_optimizers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_adamw(model: "PreTrainedModel", *, lr: float, weight_decay: float) -> Optimizer:
    """Return AdamW over all weights of the model that require a gradient."""
    (optimizer,) = make_optimizers(model, TrainConfig(lr=lr, weight_decay=weight_decay))
    return optimizer
