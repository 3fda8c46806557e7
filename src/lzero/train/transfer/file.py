"""Transfer weights to servers of this machine through memory, or to others through a directory that they share: a safetensors file."""

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
    """An engine whose servers load weights that they are told of."""

    @property
    def shared_directory(self) -> Path | None:
        """A directory that the servers see, too; None if they run on this machine, under the same user."""

    async def update(self, update: Mapping[str, Json], *, version: int) -> None:
        """Load the weights that `update` describes on every server, as policy `version`. The engine is paused. Raises EngineError."""


class InFile:
    """Writes all weights into one file, which the servers map. Nothing of it outlives the transfer. Implements `WeightTransfer`."""

    def __init__(self, engine: UpdatingEngine) -> None:
        self._engine = engine

    async def send(self, weights: WeightSource, *, version: int) -> None:
        shared = self._engine.shared_directory
        with tempfile.TemporaryDirectory(prefix="lzero-weights-", dir=shared or _memory()) as home:
            file = Path(home, "weights.safetensors")
            await asyncio.to_thread(_write, weights, file)
            with _anonymous(file) if shared is None else nullcontext(file) as path:
                await self._engine.update({"path": str(path)}, version=version)

    async def close(self) -> None: ...


def _memory() -> str | None:
    """Return a directory whose files are memory; None for the usual directory for temporary files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


@contextmanager
def _anonymous(file: Path) -> Iterator[Path]:
    """Take a file its name, so that it goes with this process, however that ends; yield a path by which other processes open it."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        file.unlink()
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _write(weights: WeightSource, file: Path) -> None:
    """Write the tensors. A tensor that shares memory with an earlier one is a tied layer, which the servers tie themselves."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights:
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.detach().to("cpu").contiguous()
    save_file(tensors, file)
