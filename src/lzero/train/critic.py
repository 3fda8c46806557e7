"""The critic: a model that predicts what a step will earn, for estimators that need values.

    hidden states that predict the action tokens  ──▶  linear layer, float32  ──▶  one value per token, of the state before it

The states are those of a model of its own (`critic.kind = "model"`), or of the policy (`"head"`; no gradient reaches the policy then).
The layer begins at 0. The critic's loss carries the weights of the policy's (`MicroBatch.weights`), so the layout of a batch does not
change its gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from lzero.algo.batches import Batch, MicroBatch, anchor
from lzero.algo.layout import Layout
from lzero.algo.metrics import Metric, Metrics, summed
from lzero.config import Config, CriticConfig
from lzero.errors import ModelError
from lzero.models import load_tokenizer, resolve
from lzero.train.attention.interface import rows_of
from lzero.train.optimizers import make_optimizers
from lzero.train.policy import compute_spec, through_root
from lzero.train.score import Agreed, per_token, predicting_states
from lzero.train.update import make_step
from lzero.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class ValueModel(torch.nn.Module):
    """Linear layer on the hidden states of `trunk`, whose decoder is a part of this module only if it `learns`."""

    def __init__(self, trunk: "PreTrainedModel", *, learns: bool) -> None:
        super().__init__()
        self._trunk = (trunk,)  # in a tuple, so that its output layer, which no value needs, is no part of this module
        self.decoder = trunk.get_decoder() if learns else None
        dtype = torch.promote_types(trunk.dtype, torch.float32)
        width = trunk.get_input_embeddings().weight.shape[1]
        self.head = torch.nn.Linear(width, 1, dtype=dtype, device=compute_spec(trunk).device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    @property
    def trunk(self) -> "PreTrainedModel":
        return self._trunk[0]

    def get_input_embeddings(self) -> torch.nn.Module:
        embeddings: torch.nn.Module = self.trunk.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, micro: MicroBatch) -> Tensor:
        """Return the value [N] of the state before each action token, in float32 or better."""
        rows = rows_of(self.trunk, micro)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.decoder is not None):
            states = through_root(self.trunk, predicting_states, rows)
        # A sum over the one column, because FSDP's hooks bear no view.
        own: Tensor = self.head(states.to(self.head.weight.dtype)).sum(dim=-1)
        return rows.joined(own, len(micro.targets))


@dataclass(frozen=True, kw_only=True)
class Critic:
    """A critic that is trained, and its optimizers."""

    model: ValueModel
    optimizers: Sequence[Optimizer]
    settings: CriticConfig
    grad_clip: float

    def values(self, samples: Sequence[Sample], layout: Layout, *, agreed: Agreed = int) -> list[tuple[float, ...]]:
        """Return for each action token of each sample the value of the state before it; 0 for other tokens. No gradient."""
        return per_token(self.model, samples, layout, device=compute_spec(self.model.trunk).device, agreed=agreed)

    def learn(self, batch: Batch, *, agreed: Agreed = int, total: Callable[[float], float] = float) -> Metrics:
        """Make `critic.epochs` optimiser steps on the batch, and return their metrics, one part for `combined`.

        `agreed` and `total`: the largest number, and the sum of the numbers, that the ranks of a run give, each of which has a part of the
        batch. Raises NotFinite, with weights and moments as the last step left them, if the loss or the gradient is not finite.
        """
        return summed([self._step(batch, agreed, total) for _ in range(self.settings.epochs)])

    def _step(self, batch: Batch, agreed: Agreed, total: Callable[[float], float]) -> Metrics:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        own = batch.micro_batches
        done = [self._accumulate(micro) for micro in (*own, *_anchors(agreed(len(own)) - len(own)))]
        loss = total(sum(loss.item() for loss, _ in done))
        norm = make_step(self.optimizers, loss=loss, grad_clip=self.grad_clip)
        metrics = summed(metrics for _, metrics in done[: len(own)])
        return metrics | {"critic/loss": Metric(loss), "critic/grad_norm": Metric(norm)}

    def _accumulate(self, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        """Add the gradient of one micro-batch, and return its loss and metrics."""
        micro = micro.to(compute_spec(self.model.trunk).device)
        loss, metrics = value_loss(self.model(micro), micro, clip=self.settings.value_clip)
        torch.autograd.backward(loss)
        return loss.detach(), metrics


def _anchors(number: int) -> list[MicroBatch]:
    """Return passes of weight 0, for a rank that has fewer than the others."""
    nothing = torch.zeros(1, dtype=torch.float64)
    return [replace(anchor(), values=nothing, value_targets=nothing) for _ in range(number)]


def value_loss(values: Tensor, micro: MicroBatch, *, clip: float) -> tuple[Tensor, Metrics]:
    """Return `Σ_i w_i · max((V_i − T_i)², (clip(V_i, old_i − clip, old_i + clip) − T_i)²) / 2` over the action tokens i, and metrics.

    `values` [N] carry the gradient; T are the targets, and `old` the values before the update. A token whose value has moved towards its
    target by more than `clip` has no gradient (OpenAI's PPO, as in arXiv 2005.12729). `clip` = 0 limits nothing.
    """
    assert micro.values is not None
    assert micro.value_targets is not None
    old, targets, weights = (column.to(values.dtype) for column in (micro.values, micro.value_targets, micro.weights))
    errors = (values - targets).square()
    if clip == 0:
        return (weights * errors).sum() / 2, {}
    clipped = (old + (values - old).clamp(-clip, clip) - targets).square()
    loss = (weights * torch.maximum(errors, clipped)).sum() / 2
    # Without a limit on the move, the two errors differ by rounding, because `old` is added again.
    limited = ((values - old).abs() > clip) & (clipped > errors)
    return loss, {"critic/clipped": Metric.mean(limited, weights)}


def make_critic(
    config: Config,
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    load: Callable[[Path], "PreTrainedModel"],
    *,
    shard_head: Callable[[torch.nn.Module], object] | None = None,
) -> Critic | None:
    """Return the critic that `critic.kind` names; None for "none". `load` loads a model of its own, or this rank's part of one, and
    `shard_head` leaves this rank its part of the linear layer. Raises ModelError, ConfigError."""
    settings = config.critic
    if settings.kind == "none":
        return None
    train = config.train.model_copy(update={"lr": settings.lr})
    if settings.kind == "head":
        model = ValueModel(policy, learns=False)
        train = train.model_copy(update={"optimizer": "adamw"})
    else:
        model = ValueModel(load(_origin(config, tokenizer)), learns=True)
    if shard_head:
        shard_head(model.head)
    return Critic(
        model=model, optimizers=make_optimizers(model, train), settings=settings, grad_clip=config.train.grad_clip
    )


def _origin(config: Config, tokenizer: "PreTrainedTokenizerFast") -> Path:
    """Return the directory that the critic begins from. Raises ModelError if its vocabulary is not the policy's."""
    directory = resolve(config.critic.path or config.model.path)
    if load_tokenizer(directory).get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"critic.path = {config.critic.path!r} has another vocabulary than model.path = {config.model.path!r}: the critic reads the "
            "policy's tokens; name a model with the same tokenizer"
        )
    return directory
