"""Transfer weights to servers as a safetensors file: in memory on this machine, or in a directory that other machines share."""

import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors.torch import save_file

from lzero.train.transfer import WeightSource
from lzero.types import Json


@runtime_checkable
class UpdatingEngine(Protocol):
    """An engine whose servers load weights from a file."""

    @property
    def shared_directory(self) -> Path | None:
        """Directory that the servers see under the same path; None if they run on this machine, as the same user."""

    async def update(self, update: Mapping[str, Json], *, version: int) -> None:
        """Load the weights that `update` describes on every server, as policy `version`. The engine is paused. Raises EngineError."""


class FileTransfer:
    """Writes all weights to one file, which the servers map. Implements `WeightTransfer`.

    The file is removed after the transfer; one in memory is gone even if this process is killed.
    """

    def __init__(self, engine: UpdatingEngine) -> None:
        self._engine = engine

    async def send(self, weights: WeightSource, *, version: int) -> None:
        shared = self._engine.shared_directory
        with tempfile.TemporaryDirectory(prefix="lzero-weights-", dir=shared or _memory_directory()) as home:
            file = Path(home, "weights.safetensors")
            await asyncio.to_thread(_write, weights, file)
            with _unlinked(file) if shared is None else nullcontext(file) as path:
                await self._engine.update({"path": str(path)}, version=version)

    async def close(self) -> None: ...


def _memory_directory() -> str | None:
    """Return a directory whose files stay in memory; None, for the default directory of temporary files, if there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


@contextmanager
def _unlinked(file: Path) -> Iterator[Path]:
    """Unlink an open file, so that it is gone when this process ends, and yield a path by which other processes can open it."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        file.unlink()
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _write(weights: WeightSource, file: Path) -> None:
    """Write the tensors. Leave out a tensor that shares memory with an earlier one: it is a tied layer, and the servers tie it, too."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights:
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.detach().to("cpu").contiguous()
    save_file(tensors, file)
