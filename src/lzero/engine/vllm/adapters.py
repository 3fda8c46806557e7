"""LoRA adapters of the servers of one engine: which one a new request samples from, and which ones no request uses any more."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lzero.config import Config

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank."""


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


def adapter_arguments(config: Config) -> tuple[str, ...]:
    """Return arguments of `vllm serve` that let a server load the run's adapters."""
    rank = next(rank for rank in RANKS if rank >= config.lora.rank)
    return ("--enable-lora", "--max-loras", str(_adapters_at_once(config)), "--max-lora-rank", str(rank))


def adapter_problems(lora: Mapping[str, Any], config: Config) -> list[str]:
    """Return why a server with this `lora_config` cannot load the run's adapters."""
    if not lora:
        return ["it takes no adapters: start it with --enable-lora"]
    needed = {"max_loras": _adapters_at_once(config), "max_lora_rank": config.lora.rank}
    return [
        f"its {key} is {lora.get(key)!r:.100}, less than {least}"
        for key, least in needed.items()
        if not isinstance(value := lora.get(key), int) or value < least
    ]


def rank_problem(rank: int) -> str:
    """Return why adapters of this rank cannot be sent to vLLM; "" if they can."""
    if not rank:
        return 'engine.transfer = "adapter" sends LoRA adapters, and lora.rank is 0: set a rank, or use "file"'
    if rank > RANKS[-1]:
        return f'lora.rank = {rank} is more than the {RANKS[-1]} that vLLM loads: lower it, or use engine.transfer = "file"'
    return ""


def _adapters_at_once(config: Config) -> int:
    """Return the number of versions that may have requests at once, and the one that is being loaded."""
    return config.rollout.max_lag + 2
