"""Load a model onto many ranks, each its own part, so that no rank and no host ever holds the whole.

skeleton (meta device) ──▶ shard ──▶ memory for the parts ──▶ each rank reads its part of the safetensors files
"""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lzero.errors import ModelError
from lzero.model_files import read_by_library, weight_files
from lzero.models import check_buildable, load_model, read_config, resolve
from lzero.train.lora import base_name
from lzero.train.policy import compute_spec
from lzero.train.stored import Stored, read_into, stored

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
Prepare = Callable[["PreTrainedModel"], "PreTrainedModel"]
"""Freezes, adapts and shards a model, which may be on the meta device."""


def load_parts(directory: Path, *, dtype: str, device: str, prepare: Prepare) -> "PreTrainedModel":
    """Return the prepared model of a checked directory, with this rank's part of the weights on `device`, in evaluation mode.

    A model that only transformers can read, because it converts names of weights or computes buffers, is loaded whole by every rank, in the
    memory of its host. An adapter gets memory, and no values. Raises ModelError.
    """
    directory = resolve(str(directory))
    with read_by_library(directory, "the model cannot be loaded"):
        model = skeleton(directory, dtype=dtype)
        found = stored(weight_files(directory))
        names, buffers = _names_in_files(model, directory, found), _computed_buffers(model)
        if names is None or buffers is None:
            logger.warning("%s can be loaded by transformers only: every rank loads all of its weights", directory)
            return prepare(load_model(directory, dtype=dtype, device="cpu"))
        model = prepare(model)
        ties = _ties(model)  # they share a parameter no longer when it gets memory
        model.to_empty(device=device)
        for name, first in ties.items():
            setattr(*_owner(model, name), model.get_parameter(first))
        for name, buffer in model.named_buffers():
            module, attribute = _owner(model, name)
            setattr(module, attribute, buffers.get(name, buffer).to(compute_spec(model).device))
        weights = {base_name(name): weight for name, weight in own_weights(model)}
        read_into({stored_name: weights[name] for name, stored_name in names.items()}, found)
    return model.eval()


def skeleton(source: "Path | PreTrainedModel", *, dtype: str) -> "PreTrainedModel":
    """Return a model of the same shapes, of this type, on the meta device: without weights. `source`: its directory, or a model."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    if isinstance(source, Path):
        check_buildable(source)
        config = read_config(source)
    else:
        config = copy.deepcopy(source.config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
    if not isinstance(source, Path):
        model.generation_config = source.generation_config
    elif (source / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source, local_files_only=True)
    found: PreTrainedModel = model.eval()
    return found


def own_weights(model: "PreTrainedModel") -> Iterator[tuple[str, Tensor]]:
    """Yield parameters, tied ones once, and the buffers that belong to the weights."""
    yield from model.named_parameters()
    kept = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def _names_in_files(model: "PreTrainedModel", directory: Path, found: Mapping[str, Stored]) -> dict[str, str] | None:
    """Return name of a weight → its name in the files; None if only transformers can read them. Raises ModelError."""
    prefix = f"{model.base_model_prefix}."
    ties = _ties(model)
    names: dict[str, str] = {}
    for name, weight in own_weights(model):
        others = [other for other, first in ties.items() if first == name]
        known = [each for each in (name, *others, name.removeprefix(prefix)) if each in found]
        if not known:
            return None
        if found[known[0]].kind.shape != weight.shape:
            raise ModelError(
                f"{directory}: {known[0]} has shape {tuple(found[known[0]].kind.shape)}, and config.json describes {tuple(weight.shape)}"
            )
        names[name] = known[0]
    return names


def _ties(model: nn.Module) -> dict[str, str]:
    """Return further name of a tied weight → its first name."""
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(weight), name) != name:
            ties[name] = first[id(weight)]
    return ties


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    place, _, attribute = name.rpartition(".")
    return model.get_submodule(place), attribute


def _computed_buffers(model: "PreTrainedModel") -> dict[str, Tensor] | None:
    """Return the buffers that no file holds, such as the frequencies of rotary positions; None if lzero cannot compute one."""
    kept, found = model.state_dict().keys(), dict[str, Tensor]()
    for path, module in model.named_modules():
        names = [name for name, _ in module.named_buffers(recurse=False) if f"{path}.{name}".lstrip(".") not in kept]
        if not names:
            continue
        if next(module.parameters(), None) is not None:
            return None
        computed = copy.deepcopy(module).to_empty(device="cpu")
        with torch.no_grad():
            for buffer in computed.buffers():
                buffer.fill_(-1)
            model._init_weights(computed)
        for name in names:
            found[f"{path}.{name}".lstrip(".")] = value = computed.get_buffer(name)
            if bool((value == -1).all()):
                return None
    return found
