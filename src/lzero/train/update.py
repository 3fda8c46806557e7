"""One optimiser step: all it learns from in, new weights and what was measured out."""

import math
import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer

from lzero.algo.batches import Batch, MicroBatch
from lzero.algo.loss import LossFn, LossInputs
from lzero.errors import ConfigError, NotFinite
from lzero.train.metrics import sum_metrics
from lzero.train.score import policy_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COPY = "float32"
"""The slot of an optimizer's state with the float32 copy of a weight."""


def make_adamw(model: "PreTrainedModel", *, lr: float, weight_decay: float) -> AdamW:
    """AdamW, with decay on matrices (embeddings included) only: pulling the gains of norms towards zero helps nobody. Weights that are
    not float32 are trained by a copy that is."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = AdamW if all(parameter.dtype == torch.float32 for parameter in parameters) else Float32AdamW
    return kind(
        [
            {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": weight_decay},
            {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
        ],
        lr=lr,
        fused=True,
    )


class Float32AdamW(AdamW):
    """AdamW on float32 copies of weights of another type, to which each step is copied back.

    bfloat16 has 8 bits: a step of 1e-6 would be rounded away in all but the smallest weights, a second moment, which loses a thousandth
    of itself a step, would never fade, and what the last of many micro-batches adds to a gradient would be lost. The copies are a slot of
    the state, as the moments are, and gradients add up in them.
    """

    def __init__(self, params: Iterable[dict[str, Any]], **settings: Any) -> None:
        self._trained: dict[Tensor, Tensor] = {}
        groups = []
        for group in params:
            copies = [parameter.detach().to(torch.float32, copy=True) for parameter in group["params"]]
            for copy, weight in zip(copies, group["params"], strict=True):
                hook = weight.register_post_accumulate_grad_hook(partial(_hand_over, copy))
                weakref.finalize(self, hook.remove)  # the weights may outlive this, and have another optimizer
                self._trained[copy] = weight
            groups.append({**group, "params": copies})
        super().__init__(groups, **settings)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        super().step(closure)
        with torch.no_grad():
            for copy, weight in self._trained.items():
                weight.copy_(copy)
                if copy in self.state:
                    self.state[copy][COPY] = copy

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        with torch.no_grad():
            for copy, slots in self.state.items():
                copy.copy_(slots.get(COPY, copy))
                slots[COPY] = copy


def _hand_over(copy: Tensor, weight: Tensor) -> None:
    """Add the gradient that a backward pass left at a weight to its copy's."""
    assert weight.grad is not None
    gradient = weight.grad.to(torch.float32)
    copy.grad = gradient if copy.grad is None else copy.grad + gradient
    weight.grad = None


def recompute_activations(model: "PreTrainedModel") -> None:
    """Gradient checkpointing: the backward pass computes a layer's activations again instead of keeping them.

    Raises ConfigError for a model that cannot.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"train.gradient_checkpointing: {type(model).__name__} does not support it: set it to false")
    newer = getattr(model, "activation_checkpointing_enable", None)  # its name in later releases of transformers
    (newer or model.gradient_checkpointing_enable)()
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True  # transformers asks this of the layer; what is inside stays without dropout


def update_policy(
    model: "PreTrainedModel",
    optimizers: Sequence[Optimizer],
    batch: Batch,
    *,
    loss_fn: LossFn,
    grad_clip: float,
    entropies: bool = False,
) -> dict[str, float]:
    """One optimiser step on the whole batch: gradients add up over micro-batches, are clipped together, and applied once.

    `entropies`: whether the loss asks for them. Metrics are means as the loss weighs, "constant" apart: there weights do not add up to 1,
    and only the loss is what they make of it. `train/logprob_gap` is the mean over action
    tokens of |log π_trainer − log π_sampler|: on policy and in one precision it is rounding error, and anything else means that
    the two are not the same policy.
    Raises NotFinite, with weights and moments as they were, if the loss or the gradient is not finite.
    """
    for optimizer in optimizers:
        optimizer.zero_grad()
    totals = sum_metrics(
        _accumulate(model, micro.to(model.device), loss_fn=loss_fn, entropies=entropies)
        for micro in batch.micro_batches
    )
    shares = {"train/loss": 1.0, "train/logprob_gap": float(batch.num_action_tokens)}
    all_weights = sum(micro.weights.sum().item() for micro in batch.micro_batches)
    totals = {
        name: total if name.endswith("_max") else total / shares.get(name, all_weights)
        for name, total in totals.items()
    }
    trained = [weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]
    norm = clip_grad_norm_(trained, grad_clip).item()
    if not (math.isfinite(totals["train/loss"]) and math.isfinite(norm)):
        for optimizer in optimizers:
            optimizer.zero_grad()
        raise NotFinite(f"the optimiser step was skipped: loss {totals['train/loss']}, gradient norm {norm}")
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return totals | {
        "train/grad_norm": norm,
        "train/action_tokens": float(batch.num_action_tokens),
        "train/tokens": float(batch.num_tokens),
        "train/shared": 1.0 - batch.num_distinct / batch.num_tokens,
        "train/padding": 1.0 - batch.num_distinct / batch.num_computed,
    }


def _accumulate(model: "PreTrainedModel", micro: MicroBatch, *, loss_fn: LossFn, entropies: bool) -> dict[str, float]:
    """Add the gradient of one micro-batch; returns its metrics, which are sums."""
    logprobs, own_entropies = policy_logprobs(model, micro, entropies=entropies)
    loss, metrics = loss_fn(LossInputs(policy_logprobs=logprobs, micro_batch=micro, entropies=own_entropies))
    torch.autograd.backward(loss)
    gaps = (logprobs.detach() - micro.logprobs).abs()
    metrics["train/logprob_gap"] = gaps.sum()
    if len(gaps):
        metrics["train/logprob_gap_max"] = gaps.max()
    return {name: value.item() for name, value in metrics.items()}
