"""What an update minimises. A loss is `inputs → (loss, metrics)`; the global token count is handed in.

Every term is a sum over the action tokens of a micro-batch, divided by the action tokens of the whole update. So micro-batches
add up to the batch, losses and metrics alike, however it is cut.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lzero.algo.batches import MicroBatch

LOGITS_AT_ONCE = 1 << 26
"""Logits (256 MiB in float32) computed in one piece; more are computed piece by piece, and again in the backward pass."""


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """One micro-batch's share of an update: `policy_logprobs` [N] carry the gradient, the rest are constants."""

    policy_logprobs: Tensor
    """Of the policy being trained, under the sampling temperature."""
    micro_batch: MicroBatch
    num_action_tokens: int
    """Of the whole update."""


LossFn = Callable[[LossInputs], tuple[Tensor, dict[str, Tensor]]]
"""(inputs) → (scalar loss, detached scalar metrics); both add up over the micro-batches of an update."""


def policy_gradient(inputs: LossInputs, *, kl_coef: float) -> tuple[Tensor, dict[str, Tensor]]:
    """L0's loss (arXiv 2506.23667): `1/Σ|a_t| · Σ [ −A_t log π(token) + kl_coef · k3 ]`, strictly on-policy.

    Its gradient is that of expected advantage, with a penalty for leaving the initial policy. k3 (Schulman, "Approximating KL
    divergence") is `exp(d) − 1 − d` with `d = log π_ref − log π`: never negative, an unbiased estimate of KL(π ‖ π_ref).
    With a coefficient of 0 the reference log-probabilities are not looked at. `train/entropy` is −log π of what was sampled.
    """
    policy, micro = inputs.policy_logprobs, inputs.micro_batch
    loss = -(policy * micro.advantages.to(policy.dtype)).sum() / inputs.num_action_tokens
    metrics = {"train/entropy": -policy.detach().sum() / inputs.num_action_tokens}
    if kl_coef > 0:
        difference = micro.reference_logprobs.to(policy.dtype) - policy
        kl = (torch.expm1(difference) - difference).sum() / inputs.num_action_tokens
        loss = loss + kl_coef * kl
        metrics["train/kl"] = kl.detach()
    return loss, metrics | {"train/loss": loss.detach()}


def likelihood(inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Supervised fine-tuning: minus the mean log-likelihood (nats a token) of the action tokens."""
    loss = -inputs.policy_logprobs.sum() / inputs.num_action_tokens
    return loss, {"train/loss": loss.detach()}


def token_logprobs(hidden: Tensor, head: torch.nn.Module, targets: Tensor, temperatures: Tensor) -> Tensor:
    """Log-probabilities [N] of `targets` [N] under `softmax(head(hidden) / temperature)`, in float32 or better.

    `hidden` [N, H] are the states that predict the targets, and only those: positions that no loss looks at cost no logits.
    Above LOGITS_AT_ONCE the [N, V] logits are never held whole, neither now nor in the backward pass.
    """
    vocabulary_size = head.get_parameter("weight").shape[0]
    rows = max(1, LOGITS_AT_ONCE // vocabulary_size)
    if len(targets) <= rows:
        return _logprobs(hidden, head, targets, temperatures)
    pieces = zip(*(torch.split(column, rows) for column in (hidden, targets, temperatures)), strict=True)
    return torch.cat(
        [checkpoint(_logprobs, states, head, ids, heats, use_reentrant=False) for states, ids, heats in pieces]
    )


def _logprobs(hidden: Tensor, head: torch.nn.Module, targets: Tensor, temperatures: Tensor) -> Tensor:
    logits: Tensor = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits / temperatures.to(logits.dtype).unsqueeze(-1)
    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
