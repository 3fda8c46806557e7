"""The end of a round that does not wait for its slowest episodes (`rollout.stragglers`)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Cutoff:
    """Ends the episodes that are still under way once `num_episodes` of them are in."""

    def __init__(self, num_episodes: int) -> None:
        self._missing = num_episodes
        self._deadlines: set[asyncio.Timeout] = set()

    @property
    def reached(self) -> bool:
        return self._missing <= 0

    def arrived(self) -> None:
        """One more episode is in."""
        self._missing -= 1
        if self.reached:
            for deadline in self._deadlines:
                _expire(deadline)

    @contextmanager
    def over(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """While it lasts, `deadline` is now if the cut-off is reached."""
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
