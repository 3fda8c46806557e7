"""Compare the metrics of the lag with their limits (`rollout.lag_*`)."""

from collections.abc import Iterator, Mapping

from lzero.config import RolloutConfig


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
