"""Transfer weights to servers as a safetensors file: in memory on this machine, or in a directory that other machines share."""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

import torch

from lzero.train.stored import TYPES
from lzero.train.transfer import WeightSource, unwritable
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

    The file is removed after the transfer. Without a shared directory, it is gone even if this process is killed meanwhile.
    """

    def __init__(self, engine: UpdatingEngine) -> None:
        self._engine = engine

    async def send(self, weights: WeightSource, *, version: int) -> None:
        num_bytes = sum(tensor.nbytes for _, tensor in weights.outline)
        shared = self._engine.shared_directory
        place = shared or _memory_directory(num_bytes) or tempfile.gettempdir()
        with ExitStack() as stack:
            with unwritable("the weights", place):
                opened = _named_file(shared) if shared is not None else _nameless_file(place)
                file, path = stack.enter_context(opened)
                await asyncio.to_thread(_write, weights, file)
            await self._engine.update({"path": str(path)}, version=version)

    async def close(self) -> None: ...


def _memory_directory(num_bytes: int) -> str | None:
    """Return a directory whose files stay in memory, if it has room for a file of so many bytes of weights; in a container it often holds
    64 MB."""
    memory = "/dev/shm"  # noqa: S108
    fits = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > num_bytes + _HEADER_BYTES
    return memory if fits else None


@contextmanager
def _nameless_file(place: str | Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Yield a file, and a path by which other processes can open it. The system removes the file when this process ends, even if killed."""
    with tempfile.TemporaryFile(dir=place) as file:
        yield file, Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")


@contextmanager
def _named_file(place: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Yield a file in a directory of its own, and its path."""
    with tempfile.TemporaryDirectory(prefix="lzero-weights-", dir=place) as home:
        path = Path(home, "weights.safetensors")
        with path.open("wb") as file:
            yield file, path


def _write(weights: WeightSource, file: IO[bytes]) -> None:
    """Write a safetensors file: the header's length, the header, and the bytes of each tensor, one after another.

    safetensors writes only to a path, where the file would stay if this process is killed, and only tensors that are all in memory.
    """
    header, end = {}, 0
    for name, tensor in weights.outline:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    with closing(iter(weights)) as tensors:
        for _, tensor in tensors:
            file.write(tensor.detach().to("cpu").contiguous().flatten().view(torch.uint8).numpy().data)
    file.flush()
