"""LoRA: train adapters of low rank inside the linear layers of a model, and leave the model as it is.

    y = W x + alpha / rank · B (A x)        W: frozen, in model.dtype; A, B: trained, in float32; B is 0 at first

peft puts the adapters in. Names and tensors of the adapted model pass through one of two filters on their way out:

    weights ──▶ merged_weights    W + alpha / rank · B A, under the names of the base model: for engines, and in checkpoints
            └─▶ adapter_weights   A and B under the names of PEFT: for servers that hold the base model, and for export
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor

from lzero.config import Config, LoraConfig
from lzero.errors import ConfigError, ModelError, StoreError
from lzero.extras import need
from lzero.models import empty_model, resolve
from lzero.seeds import derive_seed
from lzero.train.stored import fill, read_into, stored
from lzero.types import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter"
"""Directory of a checkpoint with the adapter in PEFT's format."""
TENSORS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
NAME = "default"
"""peft's name of the only adapter of a model."""
BASE, DOWN, UP = ".base_layer.", f".lora_A.{NAME}.", f".lora_B.{NAME}."
"""Parts of the names of an adapted layer's tensors: the base model's, A and B."""
PREFIX = "base_model.model."
"""Beginning of every name in PEFT's files."""
LINEAR = ("Linear", "Conv1D")
"""Classes of layers that peft adapts; GPT-2 has the second."""


def adapt(model: "PreTrainedModel", config: Config) -> None:
    """Put an adapter into each target of the model, which changes nothing yet, and freeze everything else.

    The first `train.frozen_layers` layers get none. Does nothing if lora.rank is 0. An adapter on the meta device needs `draw_adapter` when
    it has memory. Raises ConfigError for a target that the model lacks.
    """
    settings, frozen = config.lora, config.train.frozen_layers
    if not settings.rank:
        return
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    names = target_names(model, settings)
    layers = range(len(getattr(model.get_decoder(), "layers", ())))
    peft_config = PeftConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=sorted(names),
        layers_to_transform=list(layers[frozen:]) if frozen else None,
        fan_in_fan_out="Conv1D" in names.values(),
        base_model_name_or_path=model.config.name_or_path or None,
    )
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        inject_adapter_in_model(peft_config, model, adapter_name=NAME)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype.itemsize < 4:  # small steps would be rounded away
            parameter.data = parameter.data.float()
    draw_adapter(model, seed=config.run.seed)


@torch.no_grad()
def draw_adapter(model: torch.nn.Module, *, seed: int) -> None:
    """Give an adapter, or this rank's part of it, its first values: B is 0, and A is drawn by the seed and the layer's name.

    Device and number of ranks do not matter. Does nothing if the model has no adapter.
    Source: He et al. 2015, "Delving Deep into Rectifiers", with a = √5, as in PEFT.
    """
    for name, tensor in model.named_parameters():
        if DOWN in name:
            random = torch.Generator().manual_seed(derive_seed(seed, "lora", name))
            bound = tensor.shape[1] ** -0.5
            fill(tensor, torch.empty(tensor.shape, dtype=tensor.dtype).uniform_(-bound, bound, generator=random))
        elif UP in name:
            fill(tensor, torch.zeros(tensor.shape, dtype=tensor.dtype))


def target_names(model: "PreTrainedModel", settings: LoraConfig) -> dict[str, str]:
    """Return the last names of the layers to adapt, and their classes. Raises ConfigError for a target that the model lacks.

    The output layer has no adapter: servers load none for it.
    """
    found = {
        name.rpartition(".")[2]: type(module).__name__
        for name, module in model.get_decoder().named_modules()
        if type(module).__name__ in LINEAR
    }
    if lacking := [name for name in settings.targets if name not in found]:
        raise ConfigError(
            f"lora.targets: {type(model).__name__} has no linear layer {lacking[0]!r} inside its layers; it has {', '.join(sorted(found))}"
        )
    return {name: found[name] for name in settings.targets or found}


def check_lora(config: Config) -> tuple[dict[str, str], float]:
    """Return the targets of a run, and the share of the model's parameters that its adapters have. Loads no weights.

    Raises ConfigError for a target that the model lacks, a rank that exceeds a layer's, or a missing extra; ModelError.
    """
    settings = config.lora
    need("lora", what=f"lora.rank = {settings.rank}")
    model = empty_model(resolve(config.model.path))
    names = target_names(model, settings)
    shapes = [
        (name, module.weight.shape)
        for name, module in model.get_decoder().named_modules()
        if name.rpartition(".")[2] in names and type(module).__name__ in LINEAR
    ]
    narrowest, shape = min(shapes, key=lambda pair: min(pair[1]))
    if settings.rank > min(shape):
        raise ConfigError(
            f"lora.rank = {settings.rank} is more than the rank of {narrowest}, which has {shape[0]} × {shape[1]} weights: lower it"
        )
    added = sum(settings.rank * sum(shape) for _, shape in shapes)
    return names, added / sum(parameter.numel() for parameter in model.parameters())


def adapted_layers(model: torch.nn.Module) -> dict[str, Any]:
    """Return name → layer (peft's `LoraLayer`) of an adapted model; {} if it has no adapter."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def is_adapter(name: str) -> bool:
    """Return whether a tensor of an adapted model is an adapter's."""
    return DOWN in name or UP in name


def base_name(name: str) -> str:
    """Return the name of a weight without the adapter around its layer."""
    return name.replace(BASE, ".")


@contextmanager
def without_adapter(model: torch.nn.Module) -> Iterator[None]:
    """Let the model compute as its base model does. A model without adapter always does."""
    layers = adapted_layers(model).values()
    for layer in layers:  # peft's own switch changes requires_grad as well, which FSDP reads only once
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged_weights(weights: Iterable[tuple[str, Tensor]], model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a model with its adapter merged into them, named as without it. All weights, if it has none.

    `weights` are the model's, in the order of its state_dict. A merged weight is a new tensor, computed when it is its turn; the model
    stays as it is. In bfloat16 the sum is rounded once.
    """
    layers = adapted_layers(model)
    base = down = torch.empty(0)
    for name, tensor in weights:
        if BASE in name and name.endswith("weight"):
            base = tensor
        elif DOWN in name:
            down = tensor
        elif UP in name:
            layer = name.partition(UP)[0]
            yield f"{layer}.weight", _merged(base, down, tensor, layers[layer])
        else:
            yield base_name(name), tensor


def adapter_weights(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield A and B of all adapters among the weights of a model, named as in PEFT's files."""
    for name, tensor in weights:
        if is_adapter(name):
            yield PREFIX + name.replace(f".{NAME}.", "."), tensor


@torch.no_grad()
def _merged(base: Tensor, down: Tensor, up: Tensor, layer: Any) -> Tensor:
    change = (up @ down) * layer.scaling[NAME]
    merged: Tensor = base + (change.T if layer.fan_in_fan_out else change)
    return merged.to(base.dtype)


def adapter_settings(model: "PreTrainedModel") -> dict[str, Json]:
    """Return the content of PEFT's adapter_config.json for an adapted model."""
    settings: dict[str, Any] = model.peft_config[NAME].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}


@dataclass(frozen=True)
class Adapter:
    """An adapter as PEFT's files hold it."""

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Json]
    """Content of adapter_config.json."""

    def write(self, directory: Path) -> None:
        """Write its files to an existing directory. Raises OSError or SafetensorError."""
        tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, directory / TENSORS)
        (directory / SETTINGS).write_bytes(msgspec.json.format(msgspec.json.encode(self.settings)))


def adapted_copies(
    weights: Iterable[tuple[str, Tensor]], model: "PreTrainedModel"
) -> tuple[dict[str, Tensor], Adapter]:
    """Return the weights of an adapted model with its adapter merged, and the adapter, both on the CPU. Further training changes neither.

    Iterates once over `weights`, those of `merged_weights`.
    """
    kept: dict[str, Tensor] = {}

    def noted() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            if is_adapter(name):
                kept[name] = tensor.detach().to("cpu", copy=True)
            yield name, tensor

    # Merged weights are new tensors, and the others never change.
    merged = {name: tensor.detach().to("cpu") for name, tensor in merged_weights(noted(), model)}
    return merged, Adapter(dict(adapter_weights(kept.items())), adapter_settings(model))


def restore_adapter(checkpoint: Path, model: "PreTrainedModel") -> None:
    """Load the adapter of a checkpoint, or this rank's part of it, into an adapted model. Raises StoreError if it does not fit."""
    file = checkpoint / ADAPTER / TENSORS
    own = dict(adapter_weights(model.named_parameters()))
    try:
        found = stored([file])
        kinds = {name: entry.kind for name, entry in found.items()}
        for name in sorted(kinds.keys() | own.keys()):
            there, here = (tuple(each[name].shape) if name in each else "none" for each in (kinds, own))
            if there != here:
                raise StoreError(
                    f"{file} belongs to another model: {name} has shape {there} there and {here} in the model"
                )
        read_into(own, found)
    except ModelError as error:
        raise StoreError(str(error)) from None
