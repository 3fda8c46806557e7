"""What is measured of training beside losses (`lzero.train.update`) and rollouts (`lzero.rollout.summary`); all is in docs/training.md."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence

import psutil
import torch

MB = 1 << 20


class Stopwatch:
    """Seconds by phase, as `{"time/score_s": 1.2, …}`: each lap ends one."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[f"time/{phase}_s"] = now - self._last
        self._last = now


def advantage_metrics(advantages: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The spread of the advantages of a batch, over its steps: with none there is nothing to learn from it."""
    values = [value for own in advantages.values() for value in own]
    if not values:
        return {}
    return {
        "advantage/mean_abs": math.fsum(map(abs, values)) / len(values),
        "advantage/std": statistics.pstdev(values),
        "advantage/zero": sum(value == 0 for value in values) / len(values),
    }


def memory_metrics() -> dict[str, float]:
    """Of this process now, and on CUDA the most that tensors took since the last call."""
    metrics = {"memory/rss_mb": psutil.Process().memory_info().rss / MB}
    if torch.cuda.is_available():
        metrics["memory/cuda_mb"] = torch.cuda.max_memory_allocated() / MB
        metrics["memory/cuda_reserved_mb"] = torch.cuda.max_memory_reserved() / MB
        torch.cuda.reset_peak_memory_stats()
    return metrics


def is_of_the_machine(name: str) -> bool:
    """Whether a metric tells of the machine and the hour, and so differs between two runs of a seed: times, rates, memory."""
    return name.startswith(("time/", "memory/")) or name.endswith("tokens_per_s")
