"""Measure training beside losses (`lzero.train.update`) and rollouts (`lzero.rollout.summary`); docs/training.md explains all metrics."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import chain

import psutil
import torch

from lzero.algo.batches import Scored
from lzero.algo.gae import explained_variance

MB = 1 << 20


class Stopwatch:
    """Measures seconds by phase, as `{"time/score_s": 1.2, …}`: each lap ends one phase."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[f"time/{phase}_s"] = now - self._last
        self._last = now


def sampler_gap(scored: Sequence[Scored]) -> dict[str, float]:
    """Return `train/logprob_gap` of the policy before the update; later optimiser steps measure a policy that earlier ones have changed."""
    gaps = [
        abs(old - sampled)
        for row in scored
        for old, sampled, on in zip(row.old_logprobs, row.sample.logprobs, row.sample.mask, strict=True)
        if on
    ]
    return {"train/logprob_gap": math.fsum(gaps) / len(gaps), "train/logprob_gap_max": max(gaps)} if gaps else {}


def value_metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """Return means over the action tokens of the critic's values before the update and of its targets, and the explained variance."""
    pairs = [
        (value, target)
        for row in scored
        for value, target, on in zip(row.values or (), row.value_targets or (), row.sample.mask, strict=True)
        if on
    ]
    if not pairs or not all(map(math.isfinite, chain.from_iterable(pairs))):
        return {}
    values, targets = zip(*pairs, strict=True)
    explained = explained_variance(values, targets)
    means = {"critic/value": math.fsum(values) / len(values), "critic/target": math.fsum(targets) / len(targets)}
    return means if explained is None else means | {"critic/explained_variance": explained}


def advantage_metrics(advantages: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the spread of the advantages of a batch, over its steps; without spread there is nothing to learn.

    Return {} if they are not finite; the update is then skipped.
    """
    values = [value for own in advantages.values() for value in own]
    if not values or not all(map(math.isfinite, values)):
        return {}
    return {
        "advantage/mean_abs": math.fsum(map(abs, values)) / len(values),
        "advantage/std": statistics.pstdev(values),
        "advantage/zero": sum(value == 0 for value in values) / len(values),
    }


def memory_metrics() -> dict[str, float]:
    """Return the memory of this process now, and on CUDA the peak of tensors since the last call."""
    metrics = {"memory/rss_mb": psutil.Process().memory_info().rss / MB}
    if torch.cuda.is_available():
        metrics["memory/cuda_mb"] = torch.cuda.max_memory_allocated() / MB
        metrics["memory/cuda_reserved_mb"] = torch.cuda.max_memory_reserved() / MB
        torch.cuda.reset_peak_memory_stats()
    return metrics
