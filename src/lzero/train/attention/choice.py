"""Choose the attention of the trained model: the fastest kernel of this machine whose results match the model's own attention.

A kernel is tried twice before the model may use it: alone, by its outputs and gradients on a small tree, against float32; and in the model,
by the log-probabilities of sequences that share a beginning, against the model's own attention and a row for each.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lzero.errors import ModelError
from lzero.model_reach import shortest_reach
from lzero.train.attention import flash
from lzero.train.attention.interface import KERNELS, Kernel, use_kernel
from lzero.train.attention.segments import Segments, square_mask
from lzero.train.packing import check_packing, separate_scores
from lzero.train.policy import compute_spec
from lzero.train.ulysses import sequence_ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Attention = Literal["auto", "flash4", "flash3", "flash2", "flex", "paths", "mask"]
"""A kernel by name; the model's own attention, with a mask where sequences share a row ("mask"); or the fastest ("auto")."""
GENERATIONS: dict[Kernel, flash.Generation] = {"flash4": "FA4", "flash3": "FA3", "flash2": "FA2"}
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2, torch.float64: 1e-9}
"""Type → the largest error of a kernel's outputs and gradients that rounding explains, relative to the largest of them."""
SEGMENTS = ((150, 260), (70, 220), (40, 260), (40, 300))
"""(number of tokens, position from which on no token sees them) of a common prefix, two branches, and a separate sequence."""


def choose_attention(model: "PreTrainedModel", wanted: Attention, *, also: Sequence["PreTrainedModel"] = ()) -> str:
    """Let the model attend by the kernel that is wanted or, for "auto", by the fastest that is right.

    Returns its name, and why faster ones cannot be used. On a CPU, "auto" is the model's own attention, unless ranks share its rows.
    `also`: other models, which get the same attention if they attend to all tokens. Raises ModelError if the kernel that is wanted is not
    right here, or no kernel is and ranks share the rows.
    """
    own = model.config._attn_implementation
    apart, refused = None, ""
    for kernel in candidates(model, wanted):
        try:
            refuse_what_no_kernel_computes(model)
            check_kernel(model, kernel)
            apart = apart or separate_scores(model)
            use_kernel(model, kernel)
            check_packing(model, "tree", apart=apart)
        except (ModelError, RuntimeError, TypeError, ValueError, ImportError, AssertionError) as error:
            model.set_attn_implementation(own)
            if kernel in GENERATIONS:
                flash.activate("FA2")
            if wanted != "auto":
                raise ModelError(f'train.attention = "{wanted}" cannot be used here: {_line(error)}') from error
            refused += f"; {kernel} cannot be used here: {_line(error)}"
        else:
            for other in also:
                if shortest_reach(other) is None:
                    use_kernel(other, kernel)
                elif sequence_ranks(other) is not None:
                    raise ModelError(
                        f"train.sequence_ranks: {type(other).__name__} has layers with a limited attention window, which no kernel computes"
                    )
            return kernel + refused
    if sequence_ranks(model) is not None:
        raise ModelError(f"train.sequence_ranks: no kernel can be used here{refused}")
    return f"{own}, the model's own{refused}"


def candidates(model: "PreTrainedModel", wanted: Attention) -> Iterator[Kernel]:
    """Yield the kernels to try, the fastest first."""
    device = compute_spec(model).device
    if wanted == "auto" and device.type == "cuda":
        newest = torch.cuda.get_device_capability(device)[0]
        of_its_own: dict[int, Kernel] = {9: "flash3", 10: "flash4"}
        if newest in of_its_own:
            yield of_its_own[newest]
        yield from ("flash2", "flex")
    elif wanted == "auto":
        if sequence_ranks(model) is not None:
            yield "paths"
    elif wanted != "mask":
        yield wanted


def refuse_what_no_kernel_computes(model: "PreTrainedModel") -> None:
    """Raise ModelError for a model that does not attend to all tokens before: a probe is shorter than its window."""
    if shortest_reach(model) is not None:
        raise ModelError(f"{type(model).__name__} has layers with a limited attention window")


def check_kernel(model: "PreTrainedModel", kernel: Kernel) -> None:
    """Compare a kernel's outputs and gradients with those in float32, for the model's heads.

    Raises ModelError if they differ, or what the kernel raises.
    """
    if kernel in GENERATIONS:
        flash.activate(GENERATIONS[kernel])
    device, dtype = compute_spec(model).device, compute_spec(model).dtype
    heads, kv_heads, size = head_shape(model)
    until = torch.cat([torch.full((count,), end) for count, end in SEGMENTS]).unsqueeze(0).to(device)
    random = torch.Generator().manual_seed(0)
    shapes = (heads, kv_heads, kv_heads, heads)
    drawn = [torch.randn(1, number, until.shape[1], size, generator=random).to(device, dtype) for number in shapes]
    found = _passes(
        drawn, lambda query, key, value: KERNELS[kernel](query, key, value, Segments(until, branching=True), None)
    )
    wide = torch.promote_types(dtype, torch.float32)

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = (part.repeat_interleave(heads // kv_heads, dim=1) for part in (key, value))
        seen = square_mask(until)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2)

    right = _passes([part.to(wide) for part in drawn], plain)
    for name, own, its in zip(("output", "gradient", "gradient", "gradient"), found, right, strict=True):
        error = ((own.to(wide) - its).abs().max() / its.abs().max()).item()
        if not error <= TOLERANCE[dtype]:
            raise ModelError(f"its {name} differs by {error:.2g} of the largest value from that in {wide}")


def head_shape(model: "PreTrainedModel") -> tuple[int, int, int]:
    """Return the numbers of heads and of key-value heads, and the size of a head."""
    config = model.config.get_text_config(decoder=True)
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    return heads, kv_heads, int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def _passes(drawn: Sequence[Tensor], attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Return the output for queries, keys and values, and their gradients for the fourth tensor as the output's."""
    inputs = [part.detach().requires_grad_() for part in drawn[:3]]
    output = attend(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, drawn[3].transpose(1, 2).to(output.dtype))]


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
