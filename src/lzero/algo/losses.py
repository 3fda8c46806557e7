"""What an update minimises. A loss is `inputs → (loss, metrics)`.

Every term is a sum over the action tokens of a micro-batch, each with its weight (`batches.weigh`), so that micro-batches add up to
the batch, losses and metrics alike, however it is cut. A metric whose name ends in `_max` is a maximum and not a sum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lzero.algo.batches import MicroBatch
from lzero.config import AlgoConfig

LOGITS_AT_ONCE = 1 << 26
"""Logits (256 MiB in float32) computed in one piece; more are computed piece by piece, and again in the backward pass."""


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """One micro-batch's share of an update: `policy_logprobs` [N] and `entropies` [N] carry the gradient, the rest are constants."""

    policy_logprobs: Tensor
    """Of the policy being trained, under the sampling temperature."""
    micro_batch: MicroBatch
    entropies: Tensor | None = None
    """Of its distribution at each action token, in nats; None where the loss does not ask for them."""


Metrics = dict[str, Tensor]
LossFn = Callable[[LossInputs], tuple[Tensor, Metrics]]
"""(inputs) → (scalar loss, detached scalar metrics)."""


def make_loss(algo: AlgoConfig) -> LossFn:
    """The loss that `algo` describes: a surrogate, a KL penalty and an entropy bonus."""
    return partial(policy_loss, algo=algo)


def policy_loss(inputs: LossInputs, *, algo: AlgoConfig) -> tuple[Tensor, Metrics]:
    """`Σ_i w_i · [ −S_i + kl_coef · KL_i − entropy_coef · H_i ]` over the action tokens i, with w_i = 1/Σ|a_t| by default.

    `train/entropy` is −log π of what was sampled, an unbiased estimate; with a bonus for entropy it is the entropy itself.
    """
    policy, micro = inputs.policy_logprobs, inputs.micro_batch
    weights = micro.weights.to(policy.dtype)
    surrogate, metrics = _surrogate(policy, micro, algo)
    loss = -(weights * surrogate).sum()
    if algo.kl_coef > 0:
        kl = (weights * kl_estimate(policy, micro.reference_logprobs.to(policy.dtype), algo.kl)).sum()
        metrics["train/kl"] = kl.detach()
        if algo.kl_in == "loss":
            loss = loss + algo.kl_coef * kl
    entropies = -policy.detach() if inputs.entropies is None else inputs.entropies
    entropy = (weights * entropies).sum()
    if algo.entropy_coef > 0:
        loss = loss - algo.entropy_coef * entropy
    return loss, metrics | {"train/entropy": entropy.detach(), "train/loss": loss.detach()}


def _surrogate(policy: Tensor, micro: MicroBatch, algo: AlgoConfig) -> tuple[Tensor, Metrics]:
    """What is maximised, a number a token: `A log π` (L0, arXiv 2506.23667), or PPO's clipped `A π/π_old` (arXiv 1707.06347)."""
    advantages = micro.advantages.to(policy.dtype)
    trust, metrics = _importance(policy, micro, algo)
    if algo.loss == "policy_gradient":
        return trust * advantages * policy, metrics
    ratios = ratio(policy, micro, algo.ratio)
    held = ratios.clamp(1.0 - algo.clip_low, 1.0 + algo.clip_high)
    surrogate = torch.minimum(ratios * advantages, held * advantages)
    if algo.dual_clip > 0:
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, algo.dual_clip * advantages), surrogate)
    return trust * surrogate, metrics | _clip_metrics(ratios.detach(), micro, algo)


def ratio(policy: Tensor, micro: MicroBatch, level: str) -> Tensor:
    """π/π_old [N] of each "token", or of its "step" or "episode": the geometric mean over the tokens of that, one value for all of them
    (GSPO, arXiv 2507.18071; its sequence is the episode here, and the step is L0's action).

    The gradient of a shared ratio s is s ∇log π of each token, under the token's own advantage (the paper's GSPO-token). With one
    advantage for all of them that is GSPO; where steps differ, the plain mean would credit each with the advantage of all.
    """
    log_ratios = policy - micro.old_logprobs.to(policy.dtype)
    if level == "token":
        return log_ratios.exp()
    owners = micro.steps if level == "step" else micro.episodes
    num_owners = int(owners.max()) + 1 if len(owners) else 0
    sums = log_ratios.new_zeros(num_owners).index_add(0, owners, log_ratios.detach())
    counts = torch.bincount(owners, minlength=num_owners).to(policy.dtype)
    return (sums / counts).exp()[owners] * (policy - policy.detach()).exp()


def kl_estimate(policy: Tensor, reference: Tensor, kind: str) -> Tensor:
    """KL(π ‖ π_ref) from single samples, a number a token (Schulman, "Approximating KL divergence"), with d = log π_ref − log π.

    In the loss, what counts is the gradient, which is another estimate than the value is, over samples of π:

        kind                 value                                 gradient
        k1   −d              unbiased                              0 on average: a penalty in the reward only
        k2   d²/2            biased                                that of KL(π ‖ π_ref)
        k3   exp(d) − 1 − d  unbiased and never negative (L0's)    that of KL(π_ref ‖ π)
    """
    difference = reference - policy
    if kind == "k1":
        return -difference
    if kind == "k2":
        return difference.square() / 2
    return torch.expm1(difference) - difference


def _importance(policy: Tensor, micro: MicroBatch, algo: AlgoConfig) -> tuple[Tensor, Metrics]:
    """min(π_old/π_sampler, cap) a token: the trainer's policy is not exactly the one that sampled (truncated importance sampling)."""
    if algo.importance_cap <= 0:
        return torch.ones_like(policy.detach()), {}
    ratios = (micro.old_logprobs - micro.logprobs).exp()
    truncated = (micro.weights * (ratios > algo.importance_cap)).sum()
    largest = ratios.max() if len(ratios) else ratios.new_zeros(())
    metrics = {"train/importance_truncated": truncated, "train/importance_max": largest}
    return ratios.clamp(max=algo.importance_cap).to(policy.dtype), metrics


def _clip_metrics(ratios: Tensor, micro: MicroBatch, algo: AlgoConfig) -> Metrics:
    """Shares of the batch whose gradient a clip cuts off, and the tails of the ratio."""
    weights, advantages = micro.weights.to(ratios.dtype), micro.advantages.to(ratios.dtype)
    cut = {
        "train/clipped_low": (ratios < 1.0 - algo.clip_low) & (advantages < 0),
        "train/clipped_high": (ratios > 1.0 + algo.clip_high) & (advantages > 0),
    }
    if algo.dual_clip > 0:
        cut["train/clipped_dual"] = (ratios > algo.dual_clip) & (advantages < 0)
    metrics = {name: (weights * where).sum() for name, where in cut.items()}
    if len(ratios):
        metrics |= {"train/ratio_max": ratios.max(), "train/ratio_inverse_max": (1.0 / ratios).max()}
    return metrics


def likelihood(inputs: LossInputs) -> tuple[Tensor, Metrics]:
    """Supervised fine-tuning: minus the mean log-likelihood (nats a token) of the action tokens."""
    loss = -(inputs.policy_logprobs * inputs.micro_batch.weights.to(inputs.policy_logprobs.dtype)).sum()
    return loss, {"train/loss": loss.detach()}


def token_logprobs(
    hidden: Tensor, head: torch.nn.Module, targets: Tensor, temperatures: Tensor, *, entropies: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [N] of `targets` [N] under `softmax(head(hidden) / temperature)`, in float32 or better; and, if asked for, the
    entropies [N] of these distributions, in nats.

    `hidden` [N, H] are the states that predict the targets, and only those: positions that no loss looks at cost no logits.
    Above LOGITS_AT_ONCE the [N, V] logits are never held whole, neither now nor in the backward pass.
    """
    vocabulary_size = head.get_parameter("weight").shape[0]
    rows = max(1, LOGITS_AT_ONCE // vocabulary_size)
    compute = _with_entropies if entropies else _logprobs
    if len(targets) <= rows:
        found = compute(hidden, head, targets, temperatures)
    else:
        pieces = zip(*(torch.split(column, rows) for column in (hidden, targets, temperatures)), strict=True)
        found = torch.cat(
            [checkpoint(compute, states, head, ids, heats, use_reentrant=False) for states, ids, heats in pieces],
            dim=-1,
        )
    return (found[0], found[1]) if entropies else (found, None)


def _logprobs(hidden: Tensor, head: torch.nn.Module, targets: Tensor, temperatures: Tensor) -> Tensor:
    return -torch.nn.functional.cross_entropy(_logits(hidden, head, temperatures), targets, reduction="none")


def _with_entropies(hidden: Tensor, head: torch.nn.Module, targets: Tensor, temperatures: Tensor) -> Tensor:
    """[2, N]: log-probabilities of the targets, entropies."""
    logprobs = torch.log_softmax(_logits(hidden, head, temperatures), dim=-1)
    own = logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.stack((own, -(logprobs.exp() * logprobs).sum(dim=-1)))


def _logits(hidden: Tensor, head: torch.nn.Module, temperatures: Tensor) -> Tensor:
    logits: Tensor = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits / temperatures.to(logits.dtype).unsqueeze(-1)
