"""Supervise the zygotes of a pool: add one when the others are busy, replace each after a number of forks, restart a dead one."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from lzero.errors import ReplError, SandboxError
from lzero.repl.zygote_handle import ZygoteHandle

logger = logging.getLogger(__name__)
_BUSY = 2
"""Forks in progress at one zygote from which on another zygote is worth its start (a second of one core, 60 MB)."""
_RETRY_S = 60.0
"""Seconds until the next attempt after an additional zygote failed to start."""


class Supervisor:
    """Starts, lends and ends the zygotes of a pool. A zygote forks one REPL at a time, so several use several cores."""

    def __init__(self, start: Callable[[], Awaitable[ZygoteHandle]], *, most: int, forks: int) -> None:
        """`most`: zygotes that serve at once. `forks`: number of forks after which a zygote is replaced, because all its REPLs share one
        memory layout."""
        self._start = start
        self._most = most
        self._forks = forks
        self._serving: list[ZygoteHandle] = []
        self._retired: list[ZygoteHandle] = []
        self._forking: Counter[ZygoteHandle] = Counter()
        self._starting: asyncio.Task[None] | None = None
        self._start_from = 0.0
        self._stopping: set[asyncio.Task[None]] = set()
        self._first = asyncio.Lock()
        self._closed = False
        self.started = 0

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[ZygoteHandle]:
        """Yield the least busy living zygote, for one fork. Raises SandboxError if none can be started, ReplError after `close`."""
        if self._closed:
            raise ReplError("the pool is closed")
        zygote = await self._choose()
        self._forking[zygote] += 1
        try:
            yield zygote
        finally:
            self._forking[zygote] -= 1
            self.sweep()

    def sweep(self) -> None:
        """End retired zygotes whose last REPL has ended, and clean up dead ones."""
        for zygote in [zygote for zygote in self._serving if not zygote.alive]:
            self._serving.remove(zygote)
            self._retired.append(zygote)
        for zygote in [zygote for zygote in self._retired if not (zygote.num_repls or self._forking[zygote])]:
            self._retired.remove(zygote)
            del self._forking[zygote]
            stopping = asyncio.create_task(zygote.stop())
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """End all zygotes, and every REPL with them. Safe to call twice."""
        self._closed = True
        async with self._first:
            if self._starting is not None:
                self._starting.cancel()
                await asyncio.gather(self._starting, return_exceptions=True)
            zygotes, self._serving, self._retired = [*self._serving, *self._retired], [], []
            await asyncio.gather(*(zygote.stop() for zygote in zygotes), *self._stopping)

    async def _choose(self) -> ZygoteHandle:
        self.sweep()
        if not self._serving:
            async with self._first:
                if self._closed:
                    raise ReplError("the pool is closed")
                self.sweep()  # another one that waited may have started it
                if not self._serving:
                    await self._add()
        zygote = min(self._serving, key=lambda zygote: (self._forking[zygote], zygote.num_repls))
        worn = [zygote for zygote in self._serving if zygote.num_forks >= self._forks]
        if worn or (self._forking[zygote] >= _BUSY and len(self._serving) < self._most):
            self._add_beside(worn)
        return zygote

    async def _add(self) -> None:
        zygote = await self._start()
        self.started += 1
        self._serving.append(zygote)

    def _add_beside(self, worn: list[ZygoteHandle]) -> None:
        """Start another zygote while the others continue. It then replaces the `worn` ones, if any."""
        if self._closed or time.monotonic() < self._start_from:
            return
        if self._starting is not None and not self._starting.done():
            return

        async def add() -> None:
            try:
                await self._add()
            except SandboxError as error:
                logger.warning("cannot start another zygote; the others continue: %s", error)
                self._start_from = time.monotonic() + _RETRY_S
                return
            for zygote in worn:
                if zygote in self._serving:
                    self._serving.remove(zygote)
                    self._retired.append(zygote)
            self.sweep()

        self._starting = asyncio.create_task(add())
