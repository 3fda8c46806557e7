"""Checkpoints: what a run needs to go on as if it had never stopped.

    checkpoints/update-000010/
        config.json model.safetensors tokenizer.json …   a Hugging Face model directory like any other
        trainer.safetensors                              optimizer moments, state of the random generators
        trainer.json                                     the manifest: progress, score, configuration, the size of every file

A checkpoint appears whole or not at all: it is written beside its place, the manifest last, and renamed. Nothing in it is a pickle.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
import torch
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from lzero.config import Config
from lzero.errors import ModelError, StoreError
from lzero.models import files_below, save_model
from lzero.paths import is_within, read_bounded
from lzero.store.writing import write_whole
from lzero.types import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)
STATE, MANIFEST = "trainer.safetensors", "trainer.json"
RANDOM_CPU, RANDOM_CUDA = "random_cpu", "random_cuda"
FORMAT = 2
"""Of a checkpoint's own two files; a larger one was written by a later version of lzero."""
MAX_MANIFEST_BYTES = 64 << 20


class Progress(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a run is: `Progress(update=10, stream={"next_task": 702})` has made 10 updates (its policy is version 10)."""

    update: int = 0
    stream: dict[str, Json] = {}
    """What the stream of groups needs to go on (`GroupStream.state`): its place among the tasks."""
    skipped_in_a_row: int = 0
    """Optimiser steps that were not made, the last ones before this point."""


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`trainer.json`."""

    format: int = FORMAT
    progress: Progress
    score: float | None
    """Of the greedy evaluation of this policy on held-out tasks; None if there was none."""
    config: dict[str, Json]
    """Of the run that wrote it."""
    files: dict[str, int]
    """The size in bytes of every other file."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at one moment. Its tensors are copies on the CPU: training that goes on changes none of them."""

    model: "PreTrainedModel"
    """For its configuration; the weights are `weights`."""
    tokenizer: "PreTrainedTokenizerFast"
    weights: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    """Moments and random generators; `<optimizer>.<parameter>.<slot>`, as in `0.12.exp_avg`."""
    config: Config
    progress: Progress
    score: float | None = None


def take_snapshot(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    optimizers: Sequence[Optimizer],
    *,
    config: Config,
    progress: Progress,
    score: float | None = None,
) -> Snapshot:
    """Copy what a checkpoint holds. Tensors that share memory (tied weights) share their copy."""
    copies: dict[tuple[object, ...], Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        place = tensor.data_ptr(), tensor.shape, tensor.stride()
        if place not in copies:
            copies[place] = _copy(tensor)
        return copies[place]

    state = {RANDOM_CPU: torch.get_rng_state()}
    if torch.cuda.is_available():
        state[RANDOM_CUDA] = torch.cuda.get_rng_state()
    for number, optimizer in enumerate(optimizers):
        for index, slots in optimizer.state_dict()["state"].items():
            for slot, tensor in slots.items():
                state[f"{number}.{index}.{slot}"] = _copy(tensor)
    weights = {name: copy(tensor) for name, tensor in model.state_dict().items()}
    return Snapshot(
        model=model, tokenizer=tokenizer, weights=weights, state=state, config=config, progress=progress, score=score
    )


def save_checkpoint(directory: Path, snapshot: Snapshot, *, keep: int, keep_best: bool = False) -> Path:
    """Write `directory/update-<n>`, then remove all but the newest `keep` and, if `keep_best`, the one of the best score.
    Returns its path. Where it is there already, of a run that was stopped before it evaluated this policy, only its manifest is new.

    Raises StoreError (a full disk, say); checkpoints that were there stay usable.
    """
    final = checkpoint_path(directory, snapshot.progress.update)
    try:
        remove_partial(directory)
        if _is_whole(final):
            write_whole(final / MANIFEST, _manifest(snapshot, read_manifest(final).files))
        else:
            _write(final, snapshot)
        remove_superfluous(directory, keep=keep, keep_best=keep_best)
    except (OSError, SafetensorError, ModelError) as error:
        raise StoreError(f"cannot write the checkpoint {final}: {error}; earlier checkpoints are intact") from error
    return final


def _write(final: Path, snapshot: Snapshot) -> None:
    partial = final.with_name(f".{final.name}")
    try:
        save_model(snapshot.model, snapshot.tokenizer, partial, weights=snapshot.weights)
        save_file(dict(snapshot.state), partial / STATE)
        sizes = {str(file.relative_to(partial)): file.stat().st_size for file in files_below(partial)}
        (partial / MANIFEST).write_bytes(_manifest(snapshot, sizes))
        for path in (partial / STATE, partial / MANIFEST, partial):
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)  # it is broken
        partial.rename(final)
        _flush(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _manifest(snapshot: Snapshot, files: dict[str, int]) -> bytes:
    config = snapshot.config.model_dump(mode="json")
    return msgspec.json.encode(Manifest(progress=snapshot.progress, score=snapshot.score, config=config, files=files))


def _is_whole(checkpoint: Path) -> bool:
    try:
        read_manifest(checkpoint)
    except StoreError:
        return False
    return True


def remove_partial(directory: Path) -> None:
    """Remove what a save that was killed has left."""
    for left in directory.glob(".*update-*"):
        shutil.rmtree(left, ignore_errors=True)


def remove_superfluous(directory: Path, *, keep: int, keep_best: bool) -> None:
    """Remove checkpoints that are neither among the newest `keep` nor, if `keep_best`, the best. Raises OSError."""
    best = best_checkpoint(directory) if keep_best else None
    for old in checkpoints(directory)[keep:]:
        if old != best:
            shutil.rmtree(old)


def checkpoint_path(directory: Path, update: int) -> Path:
    return directory / f"update-{update:06d}"


def checkpoints(directory: Path) -> list[Path]:
    """Checkpoints of a run, newest first, whole or not."""
    return sorted(directory.glob("update-*"), reverse=True)


def scores(directory: Path) -> dict[Path, float]:
    """The held-out score of every whole checkpoint that was evaluated, oldest first."""
    found = {}
    for checkpoint in reversed(checkpoints(directory)):
        try:
            score = read_manifest(checkpoint).score
        except StoreError:
            continue
        if score is not None:
            found[checkpoint] = score
    return found


def best_checkpoint(directory: Path) -> Path | None:
    """The whole checkpoint of the best held-out score, the earliest of equal ones; None if none was evaluated."""
    found = scores(directory)
    return max(found, key=lambda checkpoint: found[checkpoint]) if found else None


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint whose files are all there in full.

    Raises StoreError, naming the file that is not, and `LaterFormat` for what a later version of lzero wrote.
    """
    file = checkpoint / MANIFEST
    try:
        text = read_bounded(file, max_bytes=MAX_MANIFEST_BYTES)
        written = msgspec.json.decode(text, type=_Format).format
        if written > FORMAT:
            raise LaterFormat(
                f"{checkpoint} was written by a later version of lzero (this one reads format {FORMAT}): upgrade lzero"
            )
        if written < FORMAT:
            raise StoreError(
                f"{checkpoint} has format {written}, and this version of lzero resumes from format {FORMAT}: resume with the version that "
                f"wrote it, or train a new run with model.path={checkpoint}"
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{file} is missing, broken or truncated: {error}") from None
    for name, size in manifest.files.items():
        part = checkpoint / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not is_within(part, checkpoint):
            raise StoreError(
                f"{file} names {name!r}, which is not in the checkpoint's directory: do not use this checkpoint"
            )
        found = part.stat().st_size if part.is_file() else None
        if found is None:
            raise StoreError(f"{part} is missing: the checkpoint is incomplete")
        if found != size:
            raise StoreError(f"{part} is truncated or changed: it has {found} bytes, and {size} were written")
    return manifest


class LaterFormat(StoreError):
    """A checkpoint that only a later version of lzero can read."""


class _Format(Struct):
    format: int


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that is whole; None if none was ever written. Every broken one on the way is logged.

    Raises StoreError, naming the file, if there are checkpoints and all are broken; and for one of a later format.
    """
    problems = []
    for checkpoint in checkpoints(directory):
        try:
            read_manifest(checkpoint)
        except LaterFormat:
            raise
        except StoreError as error:
            problems.append(str(error))
            logger.warning("%s; looking for an earlier checkpoint", error)
            continue
        return checkpoint
    if problems:
        raise StoreError(f"{directory} has no complete checkpoint: {'; '.join(problems)}")
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
    random_cpu, random_cuda = tensors.pop(RANDOM_CPU), tensors.pop(RANDOM_CUDA, None)
    for number, optimizer in enumerate(optimizers):
        state = _state_of(number, tensors)
        parameters = list(_parameters(optimizer))
        if state and max(state) >= len(parameters):
            raise StoreError(
                f"{file} belongs to another model: it has moments of parameter {max(state)}, and the model has {len(parameters)} parameters"
            )
        for index, parameter in enumerate(parameters):
            for slot, tensor in state.get(index, {}).items():
                if tensor.ndim and tensor.shape != parameter.shape:
                    raise StoreError(
                        f"{file}: {slot} of parameter {index} has shape {tuple(tensor.shape)}, "
                        f"the model's has {tuple(parameter.shape)}"
                    )
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    torch.set_rng_state(random_cpu)
    if random_cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(random_cuda)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _state_of(number: int, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The moments of one optimizer: parameter → slot → tensor."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, parameter, slot = name.split(".")
        if owner == str(number):
            state.setdefault(int(parameter), {})[slot] = tensor
    return state


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _flush(path: Path) -> None:
    """Have a file, or the names in a directory, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
