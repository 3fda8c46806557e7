"""Everything that touches a policy's parameters happens within one forward pass of its root module.

A model that is sharded over ranks gathers its parameters in hooks of that pass. A plain model has no such hooks, and computes directly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

P = ParamSpec("P")
T = TypeVar("T")
_SPEC, _ROOT = "lzero_compute_spec", "lzero_root"


@dataclass(frozen=True)
class ComputeSpec:
    """Where and in which type a model computes. Its parameters may rest elsewhere, and in another type."""

    device: torch.device
    dtype: torch.dtype


def compute_spec(model: "PreTrainedModel") -> ComputeSpec:
    """Return where a model computes."""
    return getattr(model, _SPEC, None) or ComputeSpec(model.device, model.dtype)


def through_root(
    model: "PreTrainedModel", compute: "Callable[Concatenate[PreTrainedModel, P], T]", *args: P.args, **kwargs: P.kwargs
) -> T:
    """Return `compute(model, …)`, within the forward pass of the root module if the model is sharded."""
    root = getattr(model, _ROOT, None)
    if root is None:
        return compute(model, *args, **kwargs)
    found: T = root(compute, *args, **kwargs)
    if not torch.is_grad_enabled():
        _free_gathered(model)
    return found


def _free_gathered(model: "PreTrainedModel") -> None:
    """Let a sharded model have its own parts as parameters again, as after a backward pass, which will not come. Involves no other rank."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def make_root(model: "PreTrainedModel", spec: ComputeSpec) -> None:
    """Let `through_root` run the hooks of this sharded model, which computes as `spec` says."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    setattr(model, _SPEC, spec)
    setattr(model, _ROOT, partial(_within, model))
    register_fsdp_forward_method(model, _ROOT)


def _within(model: Any, compute: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    return compute(model, *args, **kwargs)
