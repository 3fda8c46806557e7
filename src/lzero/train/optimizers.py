"""Optimizers of training, by the names that `train.optimizer` takes.

To add one, write a function that makes it from groups of weights, and put it into OPTIMIZERS.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from lzero.config import TrainConfig
from lzero.extras import need
from lzero.train.muon import SCALED, ShardedMuon

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lzero.train.critic import ValueModel

COPY = "float32"
"""Slot of an optimizer's state that holds the float32 copy of a weight."""
MOMENTUM = 0.95
"""Momentum of Muon."""
_WEIGHT = "lzero_weight"
"""Attribute of a copy: the weight."""
EIGHT_BITS, EIGHT_BIT_PARTS = "OptimState8bit", ("codes", "scale", "qmap")
"""torchao's class of a moment of 8 bits, and its tensors: codes, the scale of each block, and the value of each code."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of a model that learn, or the copies that learn in their place."""

    all: Sequence[Tensor]
    """In the order of the model's parameters."""
    inner: Sequence[Tensor]
    """Those of them that are matrices inside the layers: no embedding, output layer, gain or bias."""


def weights_of(model: "PreTrainedModel | ValueModel", of: Mapping[Tensor, Tensor] | None = None) -> Weights:
    """Return the weights of a model that require a gradient, or what `of` has in their place."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ends = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    inner = [weight for weight in learning if weight.ndim == 2 and id(weight) not in ends]
    if of is None:
        return Weights(all=learning, inner=inner)
    return Weights(all=[of[weight] for weight in learning], inner=[of[weight] for weight in inner])


def without(weights: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Return the weights that are not among the others."""
    left_out = set(map(id, others))
    return [weight for weight in weights if id(weight) not in left_out]


def make_optimizers(model: "PreTrainedModel | ValueModel", settings: TrainConfig) -> list[Optimizer]:
    """Return the optimizers that `settings.optimizer` names, over all weights of the model that require a gradient.

    Weight decay pulls on matrices only, embeddings included; decay of the gains of norms does not help. Weights of fewer bits than
    float32 are trained through float32 copies. With `settings.offload_optimizer`, copies and moments are in the host's memory, where the
    step is computed.
    """
    device = torch.device("cpu") if settings.offload_optimizer else None
    copies = Float32Copies(weights_of(model).all, device=device)
    make = OPTIMIZERS[settings.optimizer]
    optimizers = make(weights_of(model, copies.of), settings.lr, settings.weight_decay)
    for optimizer in optimizers:
        copies.join(optimizer)
    return optimizers


def set_rate(optimizers: Iterable[Optimizer], lr: float) -> None:
    """Set the learning rate of all groups. Optimizers with compiled steps keep it in a tensor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr


def _decayed(weights: Sequence[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Return a group of matrices, with decay, and one of vectors, without."""
    groups = [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adamw(weights: Weights, lr: float, weight_decay: float) -> list[Optimizer]:
    return [AdamW(_decayed(weights.all, weight_decay), lr=lr, fused=True)]


def _muon(weights: Weights, lr: float, weight_decay: float) -> list[Optimizer]:
    """Return Muon for the matrices inside the layers, and AdamW for the rest, at one rate: Muon's steps get the size of AdamW's.

    Source: Liu et al. 2025, "Muon is Scalable for LLM Training" (arXiv 2502.16982), section 2.2.
    """
    muon: Optimizer
    if any(hasattr(weight, "placements") for weight in weights.inner):
        muon = ShardedMuon(weights.inner, lr=lr, momentum=MOMENTUM, weight_decay=weight_decay)
    else:
        muon = Muon(weights.inner, lr=lr, momentum=MOMENTUM, weight_decay=weight_decay, adjust_lr_fn=SCALED)
    rest = _decayed(without(weights.all, weights.inner), weight_decay)
    return [muon, *([AdamW(rest, lr=lr, fused=True)] if rest else ())]


def _adamw_8bit(weights: Weights, lr: float, weight_decay: float) -> list[Optimizer]:
    """Return AdamW whose moments have 8 bits, in blocks of 256 with a scale each.

    Source: Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861).
    """
    need("low-bit", what='train.optimizer = "adamw-8bit"')
    from torchao.optim import AdamW8bit

    return [AdamW8bit(_decayed(weights.all, weight_decay), lr=lr)]


OPTIMIZERS: dict[str, Callable[[Weights, float, float], list[Optimizer]]] = {
    "adamw": _adamw,
    "muon": _muon,
    "adamw-8bit": _adamw_8bit,
}
"""Name → function of weights, learning rate and weight decay."""


def plain(slots: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the slots of one weight, with each tensor of 8 bits as its parts, named "slot/part", which files can hold."""
    found: dict[str, Tensor] = {}
    for slot, tensor in slots.items():
        if type(tensor).__name__ == EIGHT_BITS:
            found |= {f"{slot}/{part}": getattr(tensor, part) for part in EIGHT_BIT_PARTS}
        else:
            found[slot] = tensor
    return found


def rebuilt(slots: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `plain` got. Raises ConfigError if there are 8-bit tensors, and the extra for them is missing."""
    found = {slot: tensor for slot, tensor in slots.items() if "/" not in slot}
    for slot in dict.fromkeys(name.partition("/")[0] for name in slots if "/" in name):
        need("low-bit", what="a checkpoint with moments of 8 bits")
        from torchao.optim.subclass_8bit import OptimState8bit

        codes, scale, values = (slots[f"{slot}/{part}"] for part in EIGHT_BIT_PARTS)
        found[slot] = OptimState8bit(codes, scale, values, bool(values.min() < 0), dtype=torch.float32)
    return found


class Float32Copies:
    """Copies of weights that an optimizer trains in their place; after each step the weights get their values.

    bfloat16 has 8 bits. A step of 1e-6 would be rounded away in all but the smallest weights. A second moment, which loses a thousandth of
    itself per step, would never decay. The last of many micro-batches would add nothing to a gradient. So weights of fewer bits than
    float32 have a float32 copy, in which gradients are accumulated. With `device`, all weights have one there.

    The copies are a slot of the optimizer's state, like the moments.
    """

    def __init__(self, weights: Sequence[Tensor], *, device: torch.device | None) -> None:
        self.of: dict[Tensor, Tensor] = {}
        """Weight → what the optimizer trains: the copy, or the weight itself if it needs none."""
        for weight in weights:
            copied = weight.dtype.itemsize < torch.float32.itemsize or device is not None
            self.of[weight] = weight.detach().to(device=device, dtype=torch.float32, copy=True) if copied else weight
            if copied:
                setattr(self.of[weight], _WEIGHT, weight)

    def join(self, optimizer: Optimizer) -> None:
        """Let gradients reach the optimizer's copies, and its steps the weights."""
        trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        copied = [(copy, weight) for weight, copy in self.of.items() if copy is not weight and id(copy) in trained]
        for copy, weight in copied:
            hook = weight.register_post_accumulate_grad_hook(partial(_hand_over, copy))  # type: ignore[no-untyped-call]
            weakref.finalize(optimizer, hook.remove)  # the weights may outlive it, and have another optimizer
        if copied:
            optimizer.register_step_post_hook(partial(_step_made, copied))
            optimizer.register_load_state_dict_post_hook(partial(_state_loaded, copied))


def weight_of(trained: Tensor) -> Tensor:
    """Return the model's weight that an optimizer trains by this tensor: itself, or the one that it is a copy of."""
    weight: Tensor = getattr(trained, _WEIGHT, trained)
    return weight


def _hand_over(copy: Tensor, weight: Tensor) -> None:
    """Add the gradient that a backward pass left at a weight to that of its copy."""
    assert weight.grad is not None
    gradient = weight.grad.to(device=copy.device, dtype=torch.float32)
    copy.grad = gradient if copy.grad is None else copy.grad + gradient
    weight.grad = None


@torch.no_grad()
def _step_made(copied: Sequence[tuple[Tensor, Tensor]], optimizer: Optimizer, *_: object) -> None:
    for copy, weight in copied:
        weight.copy_(copy)
        if copy in optimizer.state:
            optimizer.state[copy][COPY] = copy


@torch.no_grad()
def _state_loaded(copied: Sequence[tuple[Tensor, Tensor]], optimizer: Optimizer) -> None:
    for copy, _weight in copied:
        if slots := optimizer.state.get(copy):
            copy.copy_(slots.get(COPY, copy))
            slots[COPY] = copy
