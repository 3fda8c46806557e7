"""Transfer a LoRA adapter to servers that hold the base model, as a directory in the format of PEFT."""

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from lzero.train.lora import Adapter
from lzero.train.transfer import WeightSource, unwritable
from lzero.types import Json

PREFIX = "lzero-adapter-"
NEW_S = 60.0
"""Seconds for which a directory that nobody has locked may be one that is being made."""


@runtime_checkable
class AdaptedEngine(Protocol):
    """An engine whose servers load LoRA adapters."""

    @property
    def shared_directory(self) -> Path | None:
        """Directory that the servers see under the same path; None if they run on this machine, as the same user."""

    @property
    def takes_adapters(self) -> bool:
        """Whether the servers were started for adapters."""

    async def load_adapter(self, directory: Path, *, version: int) -> list[Path]:
        """Sample new requests from base and adapter, as policy `version`. Return directories of adapters that were unloaded. Raises
        EngineError."""


class AdapterTransfer:
    """Writes each version of an adapter to a directory of its own. Implements `WeightTransfer`.

    `config` is PEFT's adapter_config.json. Tensors are named as PEFT names them:
    `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`. The base model of the servers stays as it is, so there is one adapter,
    of linear layers only, without biases or whole modules. A directory is removed one transfer after the last request that used it. It is
    locked until then; directories without a lock, of processes that were killed, are removed before the first transfer.
    """

    def __init__(self, engine: AdaptedEngine, config: Mapping[str, Json]) -> None:
        self._engine = engine
        self._config = config
        self._locks: dict[Path, int] = {}
        """Directory of each adapter that is there → the descriptor that locks it."""
        self._swept = False
        self._left: list[Path] = []

    async def send(self, weights: WeightSource, *, version: int) -> None:
        place = self._engine.shared_directory or tempfile.gettempdir()
        with unwritable("the adapter", place):
            if not self._swept:
                await asyncio.to_thread(_sweep, Path(place))
                self._swept = True
            home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
            self._locks[home] = os.open(home, os.O_RDONLY | os.O_CLOEXEC)
            with suppress(OSError):  # a file system without locks: nobody removes what is left there
                fcntl.flock(self._locks[home], fcntl.LOCK_EX | fcntl.LOCK_NB)
            await asyncio.to_thread(_write, weights, self._config, home)
        left = await self._engine.load_adapter(home, version=version)
        self._remove(self._left)
        self._left = left

    async def close(self) -> None:
        self._remove(list(self._locks))

    def _remove(self, homes: list[Path]) -> None:
        for home in homes:
            shutil.rmtree(home, ignore_errors=True)
            if (lock := self._locks.pop(home, None)) is not None:
                os.close(lock)


def _sweep(place: Path) -> None:
    """Remove the directories of processes that were killed: nobody has locked them."""
    for home in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # locked, another user's, or removed meanwhile
            about = home.lstat()
            if about.st_uid != os.geteuid() or time.time() - about.st_mtime < NEW_S:
                continue
            lock = os.open(home, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(home, ignore_errors=True)
            finally:
                os.close(lock)


def _write(weights: WeightSource, config: Mapping[str, Json], home: Path) -> None:
    Adapter(dict(weights), config).write(home)
