"""Checkpoints: what a run needs to go on as if it had never stopped.

    checkpoints/update-000010/
        config.json model.safetensors tokenizer.json …   a Hugging Face model directory like any other
        trainer.safetensors                              optimizer moments, state of the random generators
        trainer.json                                     progress, and the size of every file; written last

A checkpoint appears whole or not at all: it is written beside its place and renamed. Nothing in it is a pickle.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from lzero.errors import ModelError, StoreError
from lzero.models import files_below, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)
STATE, MANIFEST = "trainer.safetensors", "trainer.json"
RANDOM_CPU, RANDOM_CUDA = "random_cpu", "random_cuda"


class Progress(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a run is: `Progress(update=10, next_task=702)` has made 10 optimiser steps (its policy is version 10) and used
    the first 702 tasks of its source."""

    update: int = 0
    next_task: int = 0


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`trainer.json`: progress, and the size in bytes of every other file of the checkpoint."""

    progress: Progress
    files: dict[str, int]


def save_checkpoint(
    directory: Path,
    *,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    optimizers: Sequence[Optimizer],
    progress: Progress,
    keep: int,
) -> Path:
    """Write `directory/update-<n>`, then remove all but the newest `keep`. Returns its path.

    Raises StoreError (a full disk, say); checkpoints that were there stay usable.
    """
    final = directory / f"update-{progress.update:06d}"
    partial, replaced = directory / f".{final.name}", directory / f".{final.name}.old"
    try:
        for left in directory.glob(".*update-*"):  # of a save that was killed
            shutil.rmtree(left, ignore_errors=True)
        save_model(model, tokenizer, partial)
        save_file(_tensors(optimizers), partial / STATE)
        sizes = {str(file.relative_to(partial)): file.stat().st_size for file in files_below(partial)}
        (partial / MANIFEST).write_bytes(msgspec.json.encode(Manifest(progress=progress, files=sizes)))
        for name in (STATE, MANIFEST):
            with (partial / name).open("rb") as stream:
                os.fsync(stream.fileno())
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
        for old in checkpoints(directory)[keep:]:
            shutil.rmtree(old)
    except (OSError, SafetensorError, ModelError) as error:
        raise StoreError(f"cannot write the checkpoint {final}: {error}; earlier ones are whole") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return final


def checkpoints(directory: Path) -> list[Path]:
    """Checkpoints of a run, newest first, whole or not."""
    return sorted(directory.glob("update-*"), reverse=True)


def read_progress(checkpoint: Path) -> Progress:
    """The progress of a checkpoint whose files are all there in full. Raises StoreError, naming the file that is not."""
    file = checkpoint / MANIFEST
    try:
        manifest = msgspec.json.decode(file.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{file} is missing, broken or cut short: {error}") from None
    for name, size in manifest.files.items():
        part = checkpoint / name
        found = part.stat().st_size if part.is_file() else None
        if found is None:
            raise StoreError(f"{part} is missing: the checkpoint is not whole")
        if found != size:
            raise StoreError(f"{part} is cut short or changed: {found} bytes, {size} were written")
    return manifest.progress


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that is whole; None if none was ever written. Every broken one on the way is logged.

    Raises StoreError, naming the file, if there are checkpoints and all are broken.
    """
    problems = []
    for checkpoint in checkpoints(directory):
        try:
            read_progress(checkpoint)
        except StoreError as error:
            problems.append(str(error))
            logger.warning("%s; looking for an earlier checkpoint", error)
            continue
        return checkpoint
    if problems:
        raise StoreError(f"{directory} holds no whole checkpoint: {'; '.join(problems)}")
    return None


def restore_optimizers(checkpoint: Path, optimizers: Sequence[Optimizer]) -> None:
    """Give `optimizers` the moments, and torch the random state, of a checkpoint. Learning rates stay those of the configuration.

    Raises StoreError if they do not fit the model.
    """
    file = checkpoint / STATE
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{file} cannot be read: {error}") from None
    torch.set_rng_state(tensors.pop(RANDOM_CPU))
    random_cuda = tensors.pop(RANDOM_CUDA, None)
    if random_cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(random_cuda)
    for number, optimizer in enumerate(optimizers):
        state = _state_of(number, tensors)
        for index, parameter in enumerate(_parameters(optimizer)):
            for slot, tensor in state.get(index, {}).items():
                if tensor.ndim and tensor.shape != parameter.shape:
                    raise StoreError(
                        f"{file}: {slot} of parameter {index} has shape {tuple(tensor.shape)}, "
                        f"the model's has {tuple(parameter.shape)}"
                    )
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _state_of(number: int, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The moments of one optimizer: parameter → slot → tensor. The inverse of `_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, parameter, slot = name.split(".")
        if owner == str(number):
            state.setdefault(int(parameter), {})[slot] = tensor
    return state


def _tensors(optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Flat names: `<optimizer>.<parameter>.<slot>`, as in `0.12.exp_avg`."""
    tensors = {RANDOM_CPU: torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors[RANDOM_CUDA] = torch.cuda.get_rng_state()
    for number, optimizer in enumerate(optimizers):
        for index, slots in optimizer.state_dict()["state"].items():
            for slot, tensor in slots.items():
                tensors[f"{number}.{index}.{slot}"] = tensor.contiguous()
    return tensors


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
