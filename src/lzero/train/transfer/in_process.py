"""Transfer weights to an engine of the same process."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from lzero.train.transfer import WeightSource


@runtime_checkable
class LoadingEngine(Protocol):
    """An engine that a learner of the same process can load weights into."""

    def load(self, state_dict: Mapping[str, Tensor], version: int) -> Awaitable[None]:
        """Copy these weights between two forward passes. Tokens sampled from then on carry `version`."""


class InProcessTransfer:
    """Passes tensors to an engine of this process, which copies them. Implements `WeightTransfer`."""

    def __init__(self, engine: LoadingEngine) -> None:
        self._engine = engine

    async def send(self, weights: WeightSource, *, version: int) -> None:
        tensors = await asyncio.to_thread(dict[str, Tensor], weights)  # parts of other ranks are gathered meanwhile
        await self._engine.load(tensors, version)

    async def close(self) -> None: ...
