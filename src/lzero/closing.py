"""Resources that must be closed however their users end."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self


class Service(ABC):
    """Service that `async with` starts and closes."""

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def close(self) -> None:
        """Safe to call twice."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@asynccontextmanager
async def closed_on_error(close: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Await `close` if the block raises or is cancelled."""
    try:
        yield
    except BaseException:
        await close()
        raise
