"""Shard a model over ranks with PyTorch's FSDP2 (`fully_shard`)."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from lzero.errors import ConfigError
from lzero.train.lora import adapted_layers
from lzero.train.policy import ComputeSpec, make_root

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How a model is sharded."""

    dtype: torch.dtype
    """Type of the computation. Parameters keep theirs, and gradients are summed in float32. The parameters of a model with an adapter have
    the types in which they compute: the adapter's are float32."""
    offload: bool = False
    """Keep shards, gradients and optimizer state in the memory of the host."""
    reshard: bool = True
    """Free a layer's gathered weights after its forward pass, and gather them again for the backward pass."""


def shard(model: "PreTrainedModel", mesh: "DeviceMesh", sharding: Sharding) -> "PreTrainedModel":
    """Shard a model in place, each layer by itself, and return it. Its parameters are DTensors from then on.

    Gradients are summed over the ranks, not averaged: the weights of a loss have the denominator of all ranks. Embeddings, norm and output
    layer stay in the root's group, because tied parameters have to be in one. Raises ConfigError for a model without layers that it names.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"train.ranks: {type(model).__name__} names no layers to shard; train it in one process")
    dtype = None if adapted_layers(model) else sharding.dtype
    for module in (*layers, model):
        _shard(module, mesh, sharding, dtype=dtype)
    make_root(model, ComputeSpec(_device(mesh), sharding.dtype))
    return model


def shard_head(head: torch.nn.Module, mesh: "DeviceMesh", sharding: Sharding) -> None:
    """Shard the output layer of a critic, which computes in float32 or better, by itself.

    It is small, and freed after each forward pass: no backward one follows if a value is all that was wanted, or the step is skipped.
    """
    own = replace(sharding, reshard=True)
    _shard(head, mesh, own, dtype=torch.promote_types(sharding.dtype, torch.float32))


def _shard(module: torch.nn.Module, mesh: "DeviceMesh", sharding: Sharding, *, dtype: torch.dtype | None) -> None:
    """Shard a module whose parameters compute in this type; None for their own."""
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    wide = torch.promote_types(sharding.dtype, torch.float32)
    # Arguments are cast by the layers themselves; log-probabilities and temperatures would lose digits.
    mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=wide, cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=_device(mesh).type == "cuda") if sharding.offload else OffloadPolicy()
    sharded = fully_shard(
        module, mesh=mesh, mp_policy=mixed, offload_policy=offload, reshard_after_forward=sharding.reshard
    )
    assert isinstance(sharded, FSDPModule)
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)  # gloo, and NCCL in bfloat16, cannot scale while they sum


def _device(mesh: "DeviceMesh") -> torch.device:
    if mesh.device_type == "cpu":
        return torch.device("cpu")
    return torch.device(mesh.device_type, torch.accelerator.current_device_index())
