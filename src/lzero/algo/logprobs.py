"""Log-probabilities of tokens."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 1 << 26
"""Logits (256 MiB in float32) computed in one piece; more are computed piece by piece, and again in the backward pass."""


def token_logprobs(
    hidden: Tensor, head: torch.nn.Module, targets: Tensor, temperatures: Tensor, *, entropies: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the log-probabilities [N] of `targets` [N] under `softmax(head(hidden) / temperature)`, in float32 or better.

    With `entropies`, also return the entropies [N] of these distributions, in nats; else None. `hidden` [N, H] are the states that
    predict the targets and no others, so positions without loss cost no logits. Logits beyond LOGITS_AT_ONCE are computed in pieces
    and recomputed in the backward pass, so [N, V] is never held whole.
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
    return (
        (found[0].clone(), found[1].clone()) if entropies else (found, None)
    )  # no views: FSDP hooks into these tensors


def _logprobs(hidden: Tensor, head: torch.nn.Module, targets: Tensor, temperatures: Tensor) -> Tensor:
    return -torch.nn.functional.cross_entropy(_logits(hidden, head, temperatures), targets, reduction="none")


def _with_entropies(hidden: Tensor, head: torch.nn.Module, targets: Tensor, temperatures: Tensor) -> Tensor:
    """Return [2, N]: log-probabilities of the targets, and entropies in nats."""
    logprobs = torch.log_softmax(_logits(hidden, head, temperatures), dim=-1)
    own = logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.stack((own, -(logprobs.exp() * logprobs).sum(dim=-1)))


def _logits(hidden: Tensor, head: torch.nn.Module, temperatures: Tensor) -> Tensor:
    logits: Tensor = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits / temperatures.to(logits.dtype).unsqueeze(-1)
