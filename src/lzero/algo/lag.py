"""Measure the distance of the policy that learns from the policy that sampled (`rollout.max_lag`)."""

from collections.abc import Mapping

from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.algo.metrics import Metric, Metrics


def lag_metrics(policy: Tensor, micro: MicroBatch) -> Metrics:
    """Return moments of the ratio r = π/π_sampler of a micro-batch's action tokens, from log-probabilities `policy` [N].

    `train/sampler_kl` estimates KL(π_sampler ‖ π) by the mean of r − 1 − log r, which is never negative (k3,
    http://joschu.net/blog/kl-approx.html).
    """
    log_ratios = policy.detach().double() - micro.logprobs  # the square of a ratio exceeds float32 from 44 nats on
    ratios = log_ratios.exp()
    each = micro.weights.new_ones(len(ratios))
    return {
        "train/sampler_kl": Metric.mean(ratios - 1.0 - log_ratios, each),
        "train/ratio_mean": Metric.mean(ratios, each),
        "train/ratio_square": Metric.mean(ratios.square(), each),
    }


def effective_sample_size(metrics: Mapping[str, float]) -> float:
    """Return (Σ r)² / (N Σ r²) over all N action tokens, in (0, 1]: the share of tokens that would give as good an estimate without lag
    (Kong 1992)."""
    return metrics["train/ratio_mean"] ** 2 / metrics["train/ratio_square"]
