"""Transfer weights to servers as a safetensors file: in memory on this machine, or in a directory that other machines share."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

from safetensors import SafetensorError
from safetensors.torch import save_file

from lzero.errors import EngineError
from lzero.train.transfer import WeightSource, untied
from lzero.types import Json

_HEADER_BYTES = 1 << 20
"""Bytes for names and shapes; a model needs fewer."""


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
        place = shared or _memory_directory(sum(tensor.nbytes for _, tensor in weights)) or tempfile.gettempdir()
        try:
            with tempfile.TemporaryDirectory(prefix="lzero-weights-", dir=place) as home:
                file = Path(home, "weights.safetensors")
                await asyncio.to_thread(_write, weights, file)
                with _unlinked(file) if shared is None else nullcontext(file) as path:
                    await self._engine.update({"path": str(path)}, version=version)
        except (OSError, SafetensorError) as error:
            raise EngineError(f"cannot write the weights for the servers to {place}: {error}") from None

    async def close(self) -> None: ...


def _memory_directory(num_bytes: int) -> str | None:
    """Return a directory whose files stay in memory, if it has room for a file of so many bytes of weights; in a container it often holds
    64 MB."""
    memory = "/dev/shm"  # noqa: S108
    fits = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > num_bytes + _HEADER_BYTES
    return memory if fits else None


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
    save_file({name: tensor.detach().to("cpu").contiguous() for name, tensor in untied(weights)}, file)
