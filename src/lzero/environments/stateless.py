"""Scenes without a state, which have only tools."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lzero.protocols import Tool
from lzero.types import Json, Task


@dataclass(frozen=True, kw_only=True)
class StatelessScene:
    """A scene of tools without a state. Implements `Scene`."""

    tools: Sequence[Tool] = ()
    observation: str = ""

    async def outcome(self) -> Mapping[str, Json] | None:
        return None


class Nothing:
    """The environment "none": agents have their own tools, and no world. Implements `Environment`."""

    def __str__(self) -> str:
        return "none"

    @asynccontextmanager
    async def scene(self, task: Task, *, seed: int) -> AsyncIterator[StatelessScene]:
        yield StatelessScene()

    async def close(self) -> None: ...
