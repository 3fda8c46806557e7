"""Transfer a LoRA adapter to servers that hold the base model, as a directory in the format of PEFT."""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from lzero.temporary import OwnedDirectory, sweep
from lzero.train.lora import Adapter
from lzero.train.transfer import WeightSource, unwritable
from lzero.types import Json

PREFIX = "lzero-adapter-"


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
    of linear layers only, without biases or whole modules. A directory is removed one transfer after the last request that used it.
    Directories of processes of this machine that were killed are removed before the first transfer.
    """

    def __init__(self, engine: AdaptedEngine, config: Mapping[str, Json]) -> None:
        self._engine = engine
        self._config = config
        self._homes: dict[Path, OwnedDirectory] = {}
        """Directories of the adapters that are there."""
        self._swept = False
        self._left: list[Path] = []

    async def send(self, weights: WeightSource, *, version: int) -> None:
        place = self._engine.shared_directory or Path(tempfile.gettempdir())
        with unwritable("the adapter", place):
            if not self._swept:
                await asyncio.to_thread(sweep, PREFIX, place)
                self._swept = True
            owned = OwnedDirectory(PREFIX, place)
            home = owned.path
            self._homes[home] = owned
            await asyncio.to_thread(_write, weights, self._config, home)
        left = await self._engine.load_adapter(home, version=version)
        self._remove(self._left)
        self._left = left

    async def close(self) -> None:
        self._remove(list(self._homes))

    def _remove(self, homes: list[Path]) -> None:
        for home in homes:
            if (owned := self._homes.pop(home, None)) is not None:
                owned.remove()


def _write(weights: WeightSource, config: Mapping[str, Json], home: Path) -> None:
    Adapter(dict(weights), config).write(home)
