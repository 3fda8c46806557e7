"""Wake tasks that wait for a change."""

import asyncio
from collections.abc import Callable


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
