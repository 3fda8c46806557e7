"""Choose a replica for each request, and queue requests while all replicas are full.

request ──▶ its episode's replica, if that has a free place
        └─▶ else the serving replica with a free place and the fewest episodes; the episode stays there
        └─▶ else the queue, first come, first served
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from lzero.engine.vllm.replica import Replica
from lzero.engine.vllm.supervisor import Fleet
from lzero.errors import EngineError
from lzero.turns import Clock


class Router:
    """Places for requests at the replicas of an engine."""

    def __init__(self, replicas: Sequence[Replica], fleet: Fleet) -> None:
        self.homes: dict[str, Replica] = {}
        """Episode → the replica that has its prefix."""
        self._replicas = replicas
        self._fleet = fleet
        self._first = asyncio.Lock()
        """Held by the first request of the queue."""
        self._queued = 0
        """Requests in the queue."""
        self._clock = Clock()
        """Counts the seconds of all queued requests; stopped while no replica serves."""
        self._requests, self._queue_s = 0, 0.0

    @asynccontextmanager
    async def place(self, affinity: str, *, deadline_s: float) -> AsyncIterator[Replica]:
        """Yield a replica, and hold a place for a request there.

        Seconds in which no replica serves do not count towards the deadline. Raises EngineError after it, and if all replicas were given
        up.
        """
        started_s = self._clock.worked_s
        replica = None if self._queued else self._free(affinity)
        if replica is None:
            replica = await self._wait(affinity, deadline_s)
        self._requests += 1
        self._queue_s += self._clock.worked_s - started_s
        self.homes[affinity] = replica
        with replica.supervisor.places.one():
            yield replica

    def forget(self, affinity: str) -> None:
        self.homes.pop(affinity, None)

    def take_queue_s(self) -> float:
        """Return the mean seconds that requests waited for a place since the last call."""
        mean_s = self._queue_s / max(1, self._requests)
        self._requests, self._queue_s = 0, 0.0
        return mean_s

    async def _wait(self, affinity: str, deadline_s: float) -> Replica:
        """Return a replica with a free place. No other task runs between this and the caller's next await."""
        self._queued += 1
        try:
            async with self._clock.at_most(deadline_s) as patience, self._first:
                while (replica := self._free(affinity)) is None:
                    with self._clock.stopped():
                        await self._fleet.one_serves()
                    await self._fleet.bell.until(lambda: self._can_go_on(affinity))
                return replica
        except TimeoutError:
            if not patience.expired():
                raise
            names = ", ".join(each.name for each in self._replicas)
            raise EngineError(
                f"waited {deadline_s:g} s in the queue for a place at {names}: run fewer episodes at once (rollout.concurrency), or give "
                "the servers more memory for keys and values"
            ) from None
        finally:
            self._queued -= 1

    def _can_go_on(self, affinity: str) -> bool:
        return self._free(affinity) is not None or not any(each.supervisor.serves for each in self._replicas)

    def _free(self, affinity: str) -> Replica | None:
        """Return the replica that a request should go to now; None if none has a place."""
        free = [each for each in self._replicas if each.supervisor.serves and not each.supervisor.places.is_full]
        home = self.homes.get(affinity)
        if home in free:
            return home
        episodes = Counter(replica.name for replica in self.homes.values())
        return min(free, key=lambda replica: episodes[replica.name], default=None)
