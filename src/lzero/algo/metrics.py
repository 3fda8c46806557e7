"""Metrics of the parts of a batch, and how they combine."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, SupportsFloat

from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A metric of one part of a batch. `value` is a weighted sum, with the sum of its weights in `weight`, or a maximum.

    Over several parts, a "mean" is Σ value / Σ weight, and a "max" is the largest value. Numbers may be detached scalar tensors.
    """

    value: SupportsFloat
    weight: SupportsFloat = 1.0
    reduction: Literal["mean", "max"] = "mean"

    @classmethod
    def mean(cls, values: Tensor, weights: Tensor) -> Self:
        """Return the mean of `values` [N] with these weights [N], such as those of the loss (`MicroBatch.weights`)."""
        return cls((weights * values).detach().sum(), weights.sum())

    @classmethod
    def max(cls, values: Tensor) -> Self:
        """Return the largest of `values` [N]; N ≥ 1."""
        return cls(values.detach().max(), reduction="max")


Metrics = dict[str, Metric]


def summed(parts: Iterable[Mapping[str, Metric]]) -> Metrics:
    """Return each metric over all parts that have it, as plain numbers with their weights: one part for `combined`."""
    return {
        name: Metric(
            max(float(own.value) for own in metrics)
            if metrics[0].reduction == "max"
            else sum(float(own.value) for own in metrics),
            sum(float(own.weight) for own in metrics),
            metrics[0].reduction,
        )
        for name, metrics in _by_name(parts).items()
    }


def combined(parts: Iterable[Mapping[str, Metric]]) -> Metrics:
    """Return each metric over all parts that have it, as a plain number of weight 1."""
    return {name: Metric(_reduced(own), reduction=own[0].reduction) for name, own in _by_name(parts).items()}


def _by_name(parts: Iterable[Mapping[str, Metric]]) -> dict[str, list[Metric]]:
    found: dict[str, list[Metric]] = {}
    for part in parts:
        for name, metric in part.items():
            found.setdefault(name, []).append(metric)
    return found


def _reduced(metrics: Sequence[Metric]) -> float:
    values = [float(metric.value) for metric in metrics]
    if metrics[0].reduction == "max":
        return max(values)
    return sum(values) / sum(float(metric.weight) for metric in metrics)
