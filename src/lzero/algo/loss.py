"""The objective of an update: a surrogate (a `Loss`, each in a file of `lzero.algo.losses`), a KL penalty and an entropy bonus.

Every term is a weighted sum over the action tokens of a micro-batch (`batches.weigh`). So the losses of micro-batches add up to that of the
batch, however it is split. A `Metric` says how it combines with those of other micro-batches.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lzero.algo import losses
from lzero.algo.algorithm import Algorithm, blamed, built_in, find
from lzero.algo.batches import MicroBatch
from lzero.algo.kl import kl_estimate
from lzero.algo.metrics import Metric, Metrics
from lzero.config import AlgoConfig
from lzero.errors import TrainError

if TYPE_CHECKING:
    from lzero.config import Config


class Loss(Algorithm):
    """Surrogate of the policy gradient's objective.

    A subclass in a file of `lzero.algo.losses` is found by its `name`; a class of your own by its import path.
    """

    bears_lag: ClassVar[bool] = False

    @property
    def scores_old_policy(self) -> bool:
        """Whether it reads `micro.old_logprobs`. The trainer then computes them in a forward pass before the update; with
        `rollout.max_lag` they are the sampler's."""
        return False

    @property
    def keeps_episodes_whole(self) -> bool:
        """Whether it needs all tokens of an episode in one micro-batch."""
        return False

    @abstractmethod
    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        """Return the number to maximise for each action token [N], and metrics. A plain number is a mean with the weights of the loss.

        `policy` [N] are log-probabilities under the policy that is trained, and carry the gradient; `micro` holds the tokens'
        advantages, weights, owners and the log-probabilities of the other policies.
        """


class RatioLoss(Loss):
    """A loss of the ratio π/π_old, to the policy before the update or, with `rollout.max_lag`, to the one that sampled."""

    bears_lag = True

    @property
    def scores_old_policy(self) -> bool:
        return True

    def notes(self, config: "Config") -> Iterator[str]:
        if config.train.epochs * config.train.minibatches == 1 and config.rollout.max_lag == 0:
            yield (
                f'algo.loss = "{config.algo.loss}" makes one optimiser step per batch (train.epochs = train.minibatches = 1): every ratio '
                "is 1, and its options have no effect"
            )


def ratio(policy: Tensor, micro: MicroBatch, level: str) -> Tensor:
    """Return π/π_old [N] per `level`: "token", or "step" or "episode", whose tokens share the geometric mean of their ratios.

    The last two are GSPO's (arXiv 2507.18071), whose sequence is an episode or a step here. The gradient of a shared ratio s is
    s ∇log π of each token, times the token's own advantage (the paper's GSPO-token). With one advantage for all tokens this equals
    GSPO. Where advantages differ by step, GSPO's own form would credit each step with the mean of all.
    """
    log_ratios = policy - micro.old_logprobs.to(policy.dtype)
    if level == "token":
        return log_ratios.exp()
    owners = micro.steps if level == "step" else micro.episodes
    num_owners = int(owners.max()) + 1 if len(owners) else 0
    sums = log_ratios.new_zeros(num_owners).index_add(0, owners, log_ratios.detach())
    counts = torch.bincount(owners, minlength=num_owners).to(policy.dtype)
    return (sums / counts).exp()[owners] * (policy - policy.detach()).exp()


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """The inputs of one micro-batch's loss: `policy_logprobs` [N] and `entropies` [N] carry the gradient, the rest are constants."""

    policy_logprobs: Tensor
    """Log-probabilities under the policy that is trained, at the sampling temperature."""
    micro_batch: MicroBatch
    entropies: Tensor | None = None
    """Entropies of its distribution at each action token, in nats; None if the loss does not ask for them."""


LossFn = Callable[[LossInputs], tuple[Tensor, Metrics]]
"""(inputs) → (scalar loss, metrics)."""


@cache
def built_in_losses() -> dict[str, type[Loss]]:
    """Return the losses of `lzero.algo.losses` by their names."""
    return built_in(Loss, losses)  # type: ignore[type-abstract]


def make_loss(algo: AlgoConfig) -> Loss:
    """Return the loss that `algo.loss` names, with its options. Raises ConfigError as `find` does."""
    return find(Loss, built_in_losses(), algo.loss, algo.loss_options, key="algo.loss")  # type: ignore[type-abstract]


def make_loss_fn(algo: AlgoConfig) -> LossFn:
    """Return the whole loss of an update: surrogate, KL penalty and entropy bonus as `algo` sets them. Raises ConfigError."""
    return partial(policy_loss, algo=algo, loss=make_loss(algo))


def policy_loss(inputs: LossInputs, *, algo: AlgoConfig, loss: Loss) -> tuple[Tensor, Metrics]:
    """Return `Σ_i w_i · [ −c_i S_i + kl_coef · KL_i − entropy_coef · H_i ]` over the action tokens i, and metrics.

    By default w_i = 1/Σ|a_t| and c_i = 1. `train/entropy` is −log π of the sampled tokens, an unbiased estimate; with an entropy
    bonus it is the entropy itself.
    """
    policy, micro = inputs.policy_logprobs, inputs.micro_batch
    weights = micro.weights.to(policy.dtype)
    surrogate, metrics = _surrogate(policy, micro, algo, loss)
    total = -(weights * surrogate).sum()
    if algo.kl_coef > 0:
        kl = kl_estimate(policy, micro.reference_logprobs.to(policy.dtype), algo.kl)
        metrics["train/kl"] = Metric.mean(kl, weights)
        if algo.kl_in == "loss":
            total = total + algo.kl_coef * (weights * kl).sum()
    entropies = -policy.detach() if inputs.entropies is None else inputs.entropies
    if algo.entropy_coef > 0:
        total = total - algo.entropy_coef * (weights * entropies).sum()
    return total, metrics | {"train/entropy": Metric.mean(entropies, weights)}


def _surrogate(policy: Tensor, micro: MicroBatch, algo: AlgoConfig, loss: Loss) -> tuple[Tensor, Metrics]:
    trust, metrics = _importance(policy, micro, algo)
    with blamed(loss, TrainError):
        surrogate, own = loss.surrogate(policy, micro)
        own = {name: _metric(value, micro) for name, value in own.items()}
        shape = tuple(surrogate.shape)
    if shape != policy.shape:
        raise TrainError(
            f"the loss {type(loss).__name__} returned a surrogate of shape {shape}: return a number for each of the "
            f"{len(policy)} action tokens"
        )
    return trust * surrogate, metrics | own


def _metric(value: Metric | Tensor | float, micro: MicroBatch) -> Metric:
    """Return the metric of a loss, which may be a plain number."""
    return value if isinstance(value, Metric) else Metric(torch.as_tensor(value).detach(), micro.weights.sum())


def _importance(policy: Tensor, micro: MicroBatch, algo: AlgoConfig) -> tuple[Tensor, Metrics]:
    """Return the weight c = min(π_old/π_sampler, cap) of each token [N] (truncated importance sampling), and metrics.

    It corrects for the difference between the trainer's policy and the sampler's.
    """
    if algo.importance_cap <= 0:
        return torch.ones_like(policy.detach()), {}
    ratios = (micro.old_logprobs - micro.logprobs).exp()
    metrics = {"train/importance_truncated": Metric.mean(ratios > algo.importance_cap, micro.weights)}
    if len(ratios):
        metrics["train/importance_max"] = Metric.max(ratios)
    return ratios.clamp(max=algo.importance_cap).to(policy.dtype), metrics


def likelihood(inputs: LossInputs) -> tuple[Tensor, Metrics]:
    """Return the loss of supervised fine-tuning: minus the mean log-likelihood of the action tokens, in nats per token."""
    return -(inputs.policy_logprobs * inputs.micro_batch.weights.to(inputs.policy_logprobs.dtype)).sum(), {}
