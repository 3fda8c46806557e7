"""Give signs of life, and find the first rank that ends, hangs or fails.

A thread of each rank writes a sign of life every BEAT_S seconds and looks for failures. Rank 0 looks for the signs of the others, and each
of the others for those of rank 0. A second thread notices a store that does not answer: no call to it has a deadline.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch.distributed import Store  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from lzero.train.ranks.group import Group

BEAT_S = 1.0
DEAD_S = 55.0
"""Seconds without a sign of life after which a rank counts as dead. A busy machine may delay one for many seconds."""
FAILED = "failed"
"""Key of the first failure in the store."""
Ended = Callable[[], Mapping[int, str]]
"""Returns rank → how it ended, for the ranks that this process has started and that have ended."""


class Watch:
    """Threads that give signs of life, and find the first failure."""

    def __init__(self, group: "Group", store: Store) -> None:
        self.failure = ""
        self._group = group
        self._store = store
        self._stopped = threading.Event()
        self._ending = False
        self._threads: list[threading.Thread] = []
        self._answered = time.monotonic()
        self._telling = threading.Lock()
        self._told = False
        self.on_failure: list[Callable[[str], object]] = []
        """Called once, in a thread, when the failure is known."""

    def start(self, ended: Ended) -> None:
        for target, arguments in ((self._run, (ended,)), (self._guard, ())):
            self._threads.append(threading.Thread(target=target, args=arguments, name="lzero-ranks", daemon=True))
        self._answered = time.monotonic()
        for thread in self._threads:
            thread.start()

    @property
    def is_running(self) -> bool:
        return bool(self._threads) and not self._stopped.is_set() and not self._ending

    def expect_ends(self) -> None:
        """Take no end of a rank for a failure from now on. Signs of life go on: the others may still write a checkpoint."""
        self._ending = True

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=2 * BEAT_S)

    def _run(self, ended: Ended) -> None:
        store = self._store
        watched = range(1, self._group.size) if self._group.rank == 0 else (0,)
        seen = dict.fromkeys(watched, (b"", time.monotonic()))
        while not self._stopped.wait(BEAT_S):
            try:
                store.set(f"beat/{self._group.rank}", str(time.monotonic()))
                failure = self._group.first_failure(store.compare_set(FAILED, "", ""))
                for rank in watched:
                    beat = store.compare_set(f"beat/{rank}", "", "")  # bytes: a stranger may have written it
                    if beat != seen[rank][0]:
                        seen[rank] = beat, time.monotonic()
            except RuntimeError:  # the store is gone, and with it rank 0
                failure = "rank 0 has ended"
            self._answered = now = time.monotonic()
            late = [f"rank {rank} gives no sign of life" for rank, (_, when) in seen.items() if now - when > DEAD_S]
            gone = [f"rank {rank} {why}" for rank, why in ended().items()]
            if not self._ending and (problem := failure or next(iter((*gone, *late)), "")):
                self._tell(failure or self._group.fail(problem))
                return

    def _guard(self) -> None:
        """Notice a store that neither answers nor ends: its process is stopped, or its machine is lost."""
        while not self._stopped.wait(BEAT_S):
            if time.monotonic() - self._answered > DEAD_S:
                self._tell(f"the store of the ranks has not answered rank {self._group.rank} for {DEAD_S:g} s")
                return

    def _tell(self, failure: str) -> None:
        with self._telling:
            if self._told or self._ending:
                return
            self._told = True
        self.failure = self.failure or failure
        for tell in self.on_failure:
            tell(self.failure)
        self._group.break_off()
