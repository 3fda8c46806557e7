"""The learning rate as a function of the update's number: a run that resumes needs to know nothing else."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_factor(update: int, *, updates: int, schedule: Schedule, warmup: int) -> float:
    """What `train.lr` is multiplied with in update `update` (from 0) of `updates`.

    Over the first `warmup` updates it rises in equal steps, 1/(warmup + 1) in the first; then it is 1 ("constant"), or falls from 1
    along a line or half a cosine that would be 0 in the update after the last.
    """
    if update < warmup:
        return (update + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    past = min(1.0, (update - warmup) / (updates - warmup))
    return 1.0 - past if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * past))
