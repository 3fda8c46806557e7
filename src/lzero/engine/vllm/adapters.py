"""LoRA adapters of the servers of one engine: which one a new request samples from, and which ones no request uses any more."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter that all servers hold."""

    name: str
    """Its name on the servers, used once."""
    version: int
    """Policy version of base and adapter together."""
    directory: Path
    """Its files. vLLM may read them again while a request uses the adapter."""


class Adapters:
    """Adapters that the servers hold, the current one last."""

    def __init__(self) -> None:
        self.held: list[Adapter] = []
        self._requests: Counter[str] = Counter()

    @contextmanager
    def request(self) -> Iterator[Adapter | None]:
        """Yield the adapter that a request samples from until its end; None: the base model alone."""
        adapter = self.held[-1] if self.held else None
        if adapter is None:
            yield None
            return
        self._requests[adapter.name] += 1
        try:
            yield adapter
        finally:
            self._requests[adapter.name] -= 1

    def unused(self) -> list[Adapter]:
        """Return the earlier adapters that no request uses."""
        return [adapter for adapter in self.held[:-1] if self._requests[adapter.name] == 0]
