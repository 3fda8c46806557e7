"""Bound the requests of one server by its own load figures, and wake the tasks that wait for a change.

A server takes as many requests as it samples at once. When its memory for keys and values is full, vLLM preempts requests and computes
their tokens again later. So the bound falls to the number of requests that run then, and rises again in small steps.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lzero.engine.vllm.server import Load

FULL = 0.9
"""Share of the memory for keys and values from which on a server gets no further request."""
STEP = 8
"""A bound rises by this fraction of itself, 1/8, at each look at the server's load."""


class Bell:
    """Wakes all waiting tasks, each time it rings."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until `is_so` returns true. Asks it at once, and after each ring."""
        while not is_so():
            await self._event.wait()


class Places:
    """Places for requests at one server. `bell` rings when one becomes free."""

    def __init__(self, bell: Bell, *, preemptions: int | None = 0) -> None:
        """`preemptions`: those that the server has made so far; None: the first look tells."""
        self.taken = 0
        """Requests under way."""
        self.bound = self._most = sys.maxsize
        """The most requests that may be under way now."""
        self._bell = bell
        self._preemptions = preemptions

    @property
    def is_full(self) -> bool:
        return self.taken >= self.bound

    def limit(self, most: int) -> None:
        """Let at most so many requests be under way: as many as the server samples at once."""
        self.bound = self._most = most

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place in the block."""
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._bell.ring()

    def saw(self, load: Load) -> None:
        """Lower the bound if the server's memory is full, or raise it if all places are taken."""
        before = load.preemptions if self._preemptions is None else self._preemptions
        crowded = load.cache_usage >= FULL or load.preemptions > before
        self._preemptions = load.preemptions
        if crowded:
            self.bound = max(1, min(self.bound, load.running))
        elif self.is_full:
            self.bound = min(self._most, self.bound + max(1, self.bound // STEP))
            self._bell.ring()
