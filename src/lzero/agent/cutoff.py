"""End a round without its slowest episodes (`rollout.stragglers`)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Cutoff:
    """Ends the episodes of a round that still run once `num_episodes` of them are done."""

    def __init__(self, num_episodes: int) -> None:
        self._missing = num_episodes
        self._deadlines: set[asyncio.Timeout] = set()

    @property
    def reached(self) -> bool:
        return self._missing <= 0

    def arrived(self) -> None:
        """Count one more episode that is done."""
        self._missing -= 1
        if self.reached:
            for deadline in self._deadlines:
                _expire(deadline)

    @contextmanager
    def over(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """Let `deadline` expire in the block once the cut-off is reached."""
        self._deadlines.add(deadline)
        if self.reached:
            _expire(deadline)
        try:
            yield
        finally:
            self._deadlines.discard(deadline)


def _expire(deadline: asyncio.Timeout) -> None:
    if not deadline.expired():
        deadline.reschedule(asyncio.get_running_loop().time())
