"""Put a kernel of ours into a model, through transformers' interface for attention functions.

Nothing of the model changes but the name in its configuration, in memory: no file has it. The segments of a micro-batch travel through the
layers as a keyword argument, so that gradient checkpointing has them again in the backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.errors import ModelError
from lzero.train.attention import flash, flex, paths
from lzero.train.attention.segments import Segments, square_mask
from lzero.train.ulysses import SequenceRanks, sequence_ranks, stretch_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Kernel = Literal["flash4", "flash3", "flash2", "flex", "paths"]
Attend = Callable[[Tensor, Tensor, Tensor, Segments, float | None], Tensor]
PREFIX = "lzero_"
UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments of transformers' attention functions that change the result in a way that no kernel here computes."""


def flat(attend: Attend) -> Attend:
    """Return a kernel over rows, [R, H, L, D] → [R, L, H, D], from one over segments, [T, H, D] → [T, H, D]."""

    def over_rows(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float | None) -> Tensor:
        rows, _, width, _ = query.shape
        query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
        if (places := segments.key_places) is not None:
            key, value = gathered(key, places), gathered(value, places)
        found = attend(query, key, value, segments, scale)
        return found.view(rows, width, *found.shape[1:])

    return over_rows


def in_rows(attend: Attend) -> Attend:
    """Return a kernel [R, H, L, D] → [R, L, H, D] from one that keeps the order of dimensions."""
    return lambda *given: attend(*given).transpose(1, 2).contiguous()


KERNELS: dict[Kernel, Attend] = {
    "flash4": flat(flash.attend),
    "flash3": flat(flash.attend),
    "flash2": flat(flash.attend),
    "flex": in_rows(flex.attend),
    "paths": flat(paths.attend),
}


class _Gathered(torch.autograd.Function):
    """Take tokens of [T, H, D] by their places. The gradient of a token that several segments see adds up in float32 or better."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.length = len(source)
        return source.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        wide = torch.promote_types(gradient.dtype, torch.float32)
        total = gradient.new_zeros((ctx.length, *gradient.shape[1:]), dtype=wide)
        return total.index_add_(0, places, gradient.to(wide)).to(gradient.dtype), None


def gathered(source: Tensor, places: Tensor) -> Tensor:
    """Return [K, H, D], the tokens of `source` [T, H, D] at `places` [K]."""
    found: Tensor = _Gathered.apply(source, places)  # type: ignore[no-untyped-call]
    return found


def use_kernel(model: "PreTrainedModel", kernel: Kernel) -> None:
    """Let the model attend by this kernel. Raises ModelError if its attention cannot be exchanged."""
    from transformers import AttentionInterface

    AttentionInterface.register(PREFIX + kernel, _attention(KERNELS[kernel]))
    model.set_attn_implementation(PREFIX + kernel)
    if kernel_of(model) != kernel:
        raise ModelError(
            f'{type(model).__name__} does not let its attention be exchanged: set train.attention = "mask"'
        )


def kernel_of(model: "PreTrainedModel") -> Kernel | None:
    """Return the kernel by which the model attends; None if that is its own attention."""
    name = str(model.config._attn_implementation)
    return next((kernel for kernel in KERNELS if name == PREFIX + kernel), None)


@dataclass(frozen=True)
class Rows:
    """What this process computes of a micro-batch."""

    inputs: dict[str, Any]
    """Arguments of the model's decoder: tokens, positions, and what says which tokens see each other."""
    predictors: Tensor
    """Where, in the flattened rows, are the states that predict this process's action tokens."""
    actions: Tensor | None = None
    """Which of the micro-batch's action tokens are this process's; None for all of them."""
    ranks: SequenceRanks | None = None
    """The ranks that have the others."""

    def joined(self, own: Tensor, number: int) -> Tensor:
        """Return the values of all action tokens of the micro-batch, for those of this process. `number`: how many there are in all."""
        if self.ranks is None or self.actions is None:
            return own
        return self.ranks.joined(own, self.actions, number)


def rows_of(model: "PreTrainedModel", micro: MicroBatch) -> Rows:
    """Return what this process computes of a micro-batch: all of it, or a stretch of each row if ranks share the rows of this model."""
    ranks = sequence_ranks(model)
    kernel = kernel_of(model)
    if kernel is not None and ranks is not None:  # its own attention, with which a kernel is compared, needs whole rows
        own = stretch_of(micro, ranks)
        seen: dict[str, Any] = {"attention_mask": None, "segments": Segments.of(own.micro, ranks)}
        return Rows(own.inputs | seen, own.predictors, own.actions, ranks)
    if kernel is not None:
        seen = {"attention_mask": None, "segments": Segments.of(micro)}
    else:  # without a mask, transformers recognises packed sequences by positions that restart
        seen = {"attention_mask": None if micro.seen_until is None else square_mask(micro.seen_until)}
    return Rows({"input_ids": micro.token_ids, "position_ids": micro.position_ids, **seen}, micro.predictors)


def _attention(attend: Attend) -> Callable[..., tuple[Tensor, None]]:
    """Return an attention function as transformers calls it: queries [R, H, L, D] to [R, L, H, D]."""

    def attention(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **settings: Any,
    ) -> tuple[Tensor, None]:
        segments = settings.get("segments")
        others = [name for name in UNKNOWN if settings.get(name) is not None]
        if segments is None or attention_mask is not None or others or settings.get("dropout"):
            raise ValueError(
                f"{type(module).__name__} attends with {', '.join(others) or 'a mask, dropout, or without its arguments'}, which "
                'lzero\'s attention does not compute: set train.attention = "mask"'
            )
        ranks = segments.ranks
        if ranks is not None:
            query, key, value = (ranks.whole_rows(part) for part in (query, key, value))
        found = attend(query, key, value, segments, settings.get("scaling"))
        return found if ranks is None else ranks.own_stretch(found), None

    return attention
