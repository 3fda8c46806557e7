"""Sequence parallelism (Ulysses): several ranks share every row, each with a stretch of its tokens.

Everything but attention works on single tokens, so a rank computes its stretch alone. Before attention, the ranks exchange stretches of all
heads for whole rows of some heads, and afterwards they exchange back:

    rank 0   tokens 0 … L/2, all heads        ⇄     all tokens, heads 0 … H/2
    rank 1   tokens L/2 … L, all heads        ⇄     all tokens, heads H/2 … H

Every rank ends with the log-probabilities of all action tokens, and computes the whole loss. Its gradient is that of its own stretch: the
gradients of the ranks add up to that of the row. Source: Jacobs et al., "DeepSpeed Ulysses", arXiv 2309.14509.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SEQUENCE = "lzero_sequence"


@dataclass(frozen=True)
class SequenceRanks:
    """The ranks that share rows, as one of them sees them."""

    group: dist.ProcessGroup
    rank: int
    size: int

    @classmethod
    def of(cls, group: dist.ProcessGroup) -> "SequenceRanks":
        return cls(group, dist.get_rank(group), dist.get_world_size(group))

    def whole_rows(self, states: Tensor) -> Tensor:
        """Return [R, H/n, L, D], this rank's heads of whole rows, for [R, H, L/n, D], all heads of its stretch.

        Key-value heads that are fewer than the ranks are repeated.
        """
        if states.shape[1] % self.size:
            states = states.repeat_interleave(self.size // states.shape[1], dim=1)
        parts = torch.stack(states.chunk(self.size, dim=1))
        return exchanged(parts, self.group).movedim(0, 2).flatten(2, 3)

    def own_stretch(self, states: Tensor) -> Tensor:
        """Return [R, L/n, H, D], all heads of this rank's stretch, for [R, L, H/n, D], its heads of whole rows."""
        parts = torch.stack(states.chunk(self.size, dim=1))
        return exchanged(parts, self.group).movedim(0, 2).flatten(2, 3)

    def joined(self, values: Tensor, places: Tensor, number: int) -> Tensor:
        """Return [number] values, of which this rank has those at `places`. The gradient of each goes to the rank that has it."""
        alone = values.new_zeros(number).index_put((places,), values)
        total: Tensor = _Summed.apply(alone, self.group)  # type: ignore[no-untyped-call]
        return total


class _Exchanged(torch.autograd.Function):
    """Send part i of [n, …] to rank i, and return the parts that this rank gets, in the order of ranks. The gradient takes the way back."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _exchange(parts, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _exchange(gradient, ctx.group), None


class _Summed(torch.autograd.Function):
    """Sum over the ranks. Each rank computes the same from the sum, so a gradient is passed on, not summed."""

    @staticmethod
    def forward(ctx: Any, alone: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = alone.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def exchanged(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the parts that the ranks have for this one, in their order. Part i of `parts` goes to rank i. Carries the gradient."""
    received: Tensor = _Exchanged.apply(parts, group)  # type: ignore[no-untyped-call]
    return received


def _exchange(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    parts = parts.contiguous()
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return received


def share_rows(model: "PreTrainedModel", group: dist.ProcessGroup) -> None:
    """Let the model compute a stretch of every row, and the other ranks of `group` the rest. It must attend by a kernel of lzero's."""
    setattr(model, _SEQUENCE, SequenceRanks.of(group))


def sequence_ranks(model: "PreTrainedModel") -> SequenceRanks | None:
    """Return the ranks that share the rows of a model; None if it computes them alone."""
    found: SequenceRanks | None = getattr(model, _SEQUENCE, None)
    return found


def check_heads(heads: int, kv_heads: int, ranks: int, *, of: str = "the model") -> None:
    """Raise ConfigError if attention heads cannot be divided over so many ranks."""
    if heads % ranks or (kv_heads % ranks and ranks % kv_heads):
        fitting = [n for n in range(1, heads + 1) if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)]
        raise ConfigError(
            f"train.sequence_ranks = {ranks}: the {heads} heads and {kv_heads} key-value heads of {of} cannot be divided over so many "
            f"ranks; possible are {', '.join(map(str, fitting))}"
        )


@dataclass(frozen=True)
class Stretch:
    """This rank's part of a micro-batch."""

    micro: MicroBatch
    """The whole micro-batch, in rows whose length the ranks divide."""
    inputs: dict[str, Tensor]
    """Tokens and positions [R, L/n] of the stretch, as the decoder takes them."""
    actions: Tensor
    """Which of the micro-batch's action tokens are predicted in the stretch."""
    predictors: Tensor
    """Where, in the flattened stretch."""


def stretch_of(micro: MicroBatch, shared: SequenceRanks) -> Stretch:
    """Return this rank's stretch of every row. A target may lie in the next one: its predictor decides."""
    rows, width = micro.token_ids.shape
    more = -width % shared.size
    length = (width + more) // shared.size
    if micro.position_ids is None:
        positions = torch.arange(width + more, device=micro.token_ids.device).expand(rows, -1)
    else:
        positions = torch.nn.functional.pad(micro.position_ids, (0, more))
    until = micro.seen_until
    whole = replace(
        micro,
        token_ids=torch.nn.functional.pad(micro.token_ids, (0, more)),
        position_ids=positions,
        seen_until=None if until is None else torch.nn.functional.pad(until, (0, more), value=width + more),
    )
    own = slice(shared.rank * length, (shared.rank + 1) * length)
    row, place = micro.predictors // width, micro.predictors % width
    actions = (place // length == shared.rank).nonzero().squeeze(1)
    return Stretch(
        micro=whole,
        inputs={"input_ids": whole.token_ids[:, own], "position_ids": positions[:, own]},
        actions=actions,
        predictors=row[actions] * length + place[actions] - own.start,
    )
