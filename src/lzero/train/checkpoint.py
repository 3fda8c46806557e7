"""Checkpoints: the state from which a run resumes exactly.

    checkpoints/update-000010/
        config.json model.safetensors tokenizer.json …   a Hugging Face model directory like any other
        adapter/                                         the LoRA adapter of PEFT's format; the model above has it merged
        trainer.safetensors                              optimizer moments, state of the random generators; if several ranks
                                                         train, each writes its part to trainer/ (`lzero.train.ranks.checkpoint`)
        trainer.json                                     the manifest: progress, score, configuration, the size of every file

A checkpoint is complete or absent: it is written under another name, the manifest last, and renamed. Nothing in it is a pickle.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

import msgspec
import torch
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from lzero.config import Config
from lzero.errors import ModelError, StoreError
from lzero.models import files_below, flush, save_model
from lzero.paths import is_within, read_bounded
from lzero.store.writing import write_whole
from lzero.train.lora import ADAPTER, Adapter, adapted_copies, adapted_layers
from lzero.train.state import restore_state, state_tensors
from lzero.types import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)
STATE, STATE_DIR, MANIFEST = "trainer.safetensors", "trainer", "trainer.json"
FORMAT, OLDEST = 3, 2
"""Format of a checkpoint's trainer files, and the oldest that this version reads. A later version of lzero writes a larger number."""
MAX_MANIFEST_BYTES = 64 << 20


class Progress(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Progress of a run: `Progress(update=10, stream={"next_task": 702})` has made 10 updates (its policy is version 10)."""

    update: int = 0
    stream: dict[str, Json] = {}
    """State of the stream of groups (`GroupStream.state`): its position among the tasks."""
    skipped_in_a_row: int = 0
    """Number of consecutive skipped optimiser steps, up to this point."""


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `trainer.json`."""

    format: int = FORMAT
    progress: Progress
    score: float | None
    """Score of this policy's greedy evaluation on held-out tasks; None if there was none."""
    config: dict[str, Json]
    """Configuration of the run that wrote it."""
    files: dict[str, int]
    """The size in bytes of every other file."""


class State(Protocol):
    """The part of a snapshot that only a resumed run needs: moments, weights of the critic, and random generators."""

    def write(self, directory: Path) -> None:
        """Write its files to the directory of a new checkpoint. Raises OSError or SafetensorError; RankError if a rank fails."""

    def forget(self) -> None:
        """Release it, written or not."""


@dataclass(frozen=True)
class HeldState:
    """State that this process holds completely, named as in `lzero.train.state`. Implements `State`."""

    tensors: Mapping[str, Tensor]

    def write(self, directory: Path) -> None:
        save_file(dict(self.tensors), directory / STATE)
        flush(directory / STATE)

    def forget(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a run at one moment. Its tensors are copies on the CPU, which further training does not change."""

    model: "PreTrainedModel"
    """The model's configuration is used; the weights are `weights`."""
    tokenizer: "PreTrainedTokenizerFast"
    weights: Mapping[str, Tensor]
    state: State
    """Moments, weights of the critic, and random generators."""
    config: Config
    progress: Progress
    score: float | None = None
    adapter: Adapter | None = None
    """The LoRA adapter, which `weights` have merged; None if there is none."""


def take_snapshot(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    optimizers: Sequence[Optimizer],
    *,
    config: Config,
    progress: Progress,
    score: float | None = None,
    critic: torch.nn.Module | None = None,
) -> Snapshot:
    """Copy the state for a checkpoint. Tensors that share memory (tied weights) share their copy."""
    copies: dict[tuple[object, ...], Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        place = tensor.data_ptr(), tensor.shape, tensor.stride()
        if place not in copies:
            copies[place] = _copy(tensor)
        return copies[place]

    adapter = None
    own = model.state_dict()
    if adapted_layers(model):
        weights, adapter = adapted_copies(own.items(), model)
    else:
        weights = {name: copy(tensor) for name, tensor in own.items()}
    return Snapshot(
        model=model,
        tokenizer=tokenizer,
        weights=weights,
        state=HeldState({name: _copy(tensor) for name, tensor in state_tensors(model, optimizers, critic=critic)}),
        config=config,
        progress=progress,
        score=score,
        adapter=adapter,
    )


def save_checkpoint(directory: Path, snapshot: Snapshot, *, keep: int, keep_best: bool = False) -> Path:
    """Write `directory/update-<n>`, and return its path. Remove all but the newest `keep` and, if `keep_best`, the best one.

    If it exists, from a run that was stopped before it evaluated this policy, only its manifest is replaced. Raises StoreError, for example
    on a full disk; existing checkpoints stay usable.
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
    finally:
        snapshot.state.forget()
    return final


def _write(final: Path, snapshot: Snapshot) -> None:
    partial = final.with_name(f".{final.name}")
    try:
        save_model(snapshot.model, snapshot.tokenizer, partial, weights=snapshot.weights)
        snapshot.state.write(partial)
        if snapshot.adapter is not None:
            (partial / ADAPTER).mkdir()
            snapshot.adapter.write(partial / ADAPTER)
            for path in (*files_below(partial / ADAPTER), partial / ADAPTER):
                flush(path)
        sizes = {str(file.relative_to(partial)): file.stat().st_size for file in files_below(partial)}
        (partial / MANIFEST).write_bytes(_manifest(snapshot, sizes))
        for path in (partial / MANIFEST, partial):
            flush(path)
        shutil.rmtree(final, ignore_errors=True)  # it is broken
        partial.rename(final)
        flush(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def only_to_resume(file: str) -> bool:
    """Return whether a file of a checkpoint is no part of its model."""
    return file in (STATE, MANIFEST) or PurePosixPath(file).parts[0] == STATE_DIR


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
    """Remove what a killed save has left."""
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
    """Return the checkpoints of a run, newest first, complete or not."""
    return sorted(directory.glob("update-*"), reverse=True)


def scores(directory: Path) -> dict[Path, float]:
    """Return the held-out score of every complete checkpoint that was evaluated, oldest first."""
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
    """Return the complete checkpoint with the best held-out score, the earliest of equal ones; None if none was evaluated."""
    found = scores(directory)
    return max(found, key=lambda checkpoint: found[checkpoint]) if found else None


def read_manifest(checkpoint: Path) -> Manifest:
    """Return the manifest of a checkpoint, after a check that all its files are complete.

    Raises StoreError, which names the broken file, and `LaterFormat` if a later version of lzero wrote it.
    """
    file = checkpoint / MANIFEST
    try:
        text = read_bounded(file, max_bytes=MAX_MANIFEST_BYTES)
        written = msgspec.json.decode(text, type=_Format).format
        if written > FORMAT:
            raise LaterFormat(
                f"{checkpoint} was written by a later version of lzero (this one reads format {FORMAT}): upgrade lzero"
            )
        if written < OLDEST:
            raise StoreError(
                f"{checkpoint} has format {written}, and this version of lzero resumes from format {OLDEST} on: resume with the version "
                f"that wrote it, or train a new run with model.path={checkpoint}"
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
    """Return the newest complete checkpoint; None if there are none. Logs each broken one on the way.

    Raises StoreError, which names the file, if all checkpoints are broken, or one has a later format.
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


def restore_optimizers(
    checkpoint: Path,
    model: "PreTrainedModel",
    optimizers: Sequence[Optimizer],
    *,
    critic: torch.nn.Module | None = None,
) -> None:
    """Load the moments into the `optimizers` of model and critic, the critic's weights into `critic`, and the random state into torch.

    Any number of ranks may have written them; a rank loads its own part. Learning rates stay those of the configuration. Raises StoreError
    if they do not fit the model.
    """
    restore_state(checkpoint, state_files(checkpoint), model, optimizers, critic=critic)


def state_files(checkpoint: Path) -> list[Path]:
    """Return the files of the optimizers' state: one of a single process, or one of each rank."""
    if not (checkpoint / STATE_DIR).is_dir():
        return [checkpoint / STATE]
    # A rank of a run that was killed may write its file late, beside those of the run that resumed.
    return [checkpoint / name for name in sorted(read_manifest(checkpoint).files) if name.startswith(f"{STATE_DIR}/")]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
