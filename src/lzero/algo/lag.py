"""Measure the distance of the policy that learns from the policy that sampled (`rollout.max_lag`)."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.algo.metrics import Metric, Metrics
from lzero.config import RolloutConfig


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


def lag_problems(metrics: Mapping[str, float], config: RolloutConfig) -> list[str]:
    """Return a phrase for each limit of `config` that the metrics of an update exceed.

    Return nothing without lag, and for a batch whose lag exceeds the present limit: it was begun under a higher one.
    """
    limit, lag = metrics.get("rollout/max_lag", 0.0), metrics.get("rollout/lag_max", 0.0)
    return list(_exceeded(metrics, config)) if 0 < limit >= lag else []


def _exceeded(metrics: Mapping[str, float], config: RolloutConfig) -> Iterator[str]:
    size, divergence, masked = (metrics.get(f"train/{name}") for name in ("ess", "sampler_kl", "masked"))
    if size is not None and size < config.lag_min_ess:
        yield f"the effective sample size is {size:.2f} of the tokens (rollout.lag_min_ess = {config.lag_min_ess:g})"
    if divergence is not None and divergence > config.lag_max_kl:
        yield f"the learner is {divergence:.3f} nats from the sampler (rollout.lag_max_kl = {config.lag_max_kl:g})"
    if masked is not None and masked > config.lag_max_masked:
        yield f"{masked:.0%} of the tokens are outside the trust region (rollout.lag_max_masked = {config.lag_max_masked:g})"
