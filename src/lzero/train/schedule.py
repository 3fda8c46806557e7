"""Learning rates: of reinforcement learning by the number of the update alone, so that a run can resume; of fine-tuning by the share of its
tokens."""

import math

from lzero.config import TrainConfig


def learning_rate(update: int, train: TrainConfig) -> float:
    """Return the learning rate of update `update` (from 0).

    Over the first `warmup_updates` it rises in equal steps, from 1/(warmup_updates + 1) of `lr`. Then it is `lr` ("constant"), or falls
    along a line or half a cosine that reaches 0 in the update after the last.
    """
    if update < train.warmup_updates:
        return train.lr * ((update + 1) / (train.warmup_updates + 1))
    past = min(1.0, (update - train.warmup_updates) / (train.updates - train.warmup_updates))
    factors = {"constant": 1.0, "linear": 1.0 - past, "cosine": 0.5 * (1.0 + math.cos(math.pi * past))}
    return train.lr * factors[train.lr_schedule]


def warmup_stable_decay(fraction: float, *, warmup: float, decay: float) -> float:
    """Return the factor of the rate at this fraction of the tokens: linear rise from zero, constant, linear fall to zero.

    MiniCPM's WSD, arXiv 2404.06395.
    """
    rising = fraction / warmup if warmup else 1.0
    falling = (1.0 - fraction) / decay if decay else 1.0
    return max(0.0, min(1.0, rising, falling))
