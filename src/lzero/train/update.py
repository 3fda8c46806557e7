"""Make one optimiser step: from a batch to new weights and metrics."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from lzero.algo.batches import Batch, MicroBatch
from lzero.algo.lag import lag_metrics
from lzero.algo.loss import LossFn, LossInputs
from lzero.algo.metrics import Metric, Metrics, combined
from lzero.errors import NotFinite
from lzero.train.policy import compute_spec
from lzero.train.score import policy_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def update_policy(
    model: "PreTrainedModel",
    optimizers: Sequence[Optimizer],
    batch: Batch,
    *,
    loss_fn: LossFn,
    grad_clip: float,
    entropies: bool = False,
    lags: bool = False,
    before: Callable[[], object] = lambda: None,
) -> Metrics:
    """Make one optimiser step on the whole batch: accumulate gradients over micro-batches, clip them together, apply them once.

    `entropies`: whether the loss needs them. `lags`: whether to measure how far the sampler is behind. `train/logprob_gap`
    is the mean over action tokens of |log π_trainer − log π_sampler|.
    On-policy and in one precision it is rounding error; a larger value means that the two are not the same policy.

    Raises NotFinite, with weights and moments unchanged, if the loss or the gradient is not finite, or `before` does (see `make_step`).
    """
    for optimizer in optimizers:
        optimizer.zero_grad()
    done = [accumulate(model, micro, loss_fn=loss_fn, entropies=entropies, lags=lags) for micro in batch.micro_batches]
    loss = sum(loss.item() for loss, _ in done)
    norm = make_step(optimizers, loss=loss, grad_clip=grad_clip, before=before)
    return combined(metrics for _, metrics in done) | step_metrics([batch], loss=loss, norm=norm)


def step_metrics(batches: Sequence[Batch], *, loss: float, norm: float) -> Metrics:
    """Return the metrics of an optimiser step as a whole; each rank has one of the batches."""
    num_tokens, num_distinct, num_computed = (
        sum(getattr(batch, name) for batch in batches) for name in ("num_tokens", "num_distinct", "num_computed")
    )
    return {
        "train/loss": Metric(loss),
        "train/grad_norm": Metric(norm),
        "train/action_tokens": Metric(sum(batch.num_action_tokens for batch in batches)),
        "train/tokens": Metric(num_tokens),
        "train/shared": Metric(1.0 - num_distinct / num_tokens),
        "train/padding": Metric(1.0 - num_distinct / num_computed),
    }


def make_step(
    optimizers: Sequence[Optimizer], *, loss: float, grad_clip: float, before: Callable[[], object] = lambda: None
) -> float:
    """Clip the accumulated gradients together, and apply them once. Return their norm before clipping.

    `before` is called when loss and gradient are known to be finite, before they are applied. Raises NotFinite, with weights and moments
    unchanged, if they are not, or if `before` raises it. `loss` and norm are those of all ranks, so ranks that hold parts of the gradient
    do the same.
    """
    trained = [weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]
    total = clip_grad_norm_(trained, grad_clip)
    norm: float = getattr(total, "full_tensor", lambda: total)().item()  # a sharded model's is a DTensor
    try:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFinite(f"the optimiser step was skipped: loss {loss}, gradient norm {norm}")
        before()
    except NotFinite:
        for optimizer in optimizers:
            optimizer.zero_grad()
        raise
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return norm


def accumulate(
    model: "PreTrainedModel", micro: MicroBatch, *, loss_fn: LossFn, entropies: bool, lags: bool
) -> tuple[Tensor, Metrics]:
    """Add the gradient of one micro-batch, and return its loss and metrics."""
    micro = micro.to(compute_spec(model).device)
    logprobs, own_entropies = policy_logprobs(model, micro, entropies=entropies)
    loss, metrics = loss_fn(LossInputs(policy_logprobs=logprobs, micro_batch=micro, entropies=own_entropies))
    torch.autograd.backward(loss)
    gaps = (logprobs.detach() - micro.logprobs).abs()
    if lags:
        metrics |= lag_metrics(logprobs, micro)
    metrics["train/logprob_gap"] = Metric(gaps.sum(), len(gaps))
    if len(gaps):
        metrics["train/logprob_gap_max"] = Metric.max(gaps)
    return loss.detach(), metrics
