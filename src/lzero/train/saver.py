"""Write checkpoints while the run goes on.

    loop      ──▶ snapshot ──▶ next update …                                ──▶ snapshot (waits for its place)
    thread              └──▶ write beside, rename, remove old ones ──▶ place free ─┘

Only one is written at a time. The loop waits for the snapshot, and for the previous checkpoint if that is still being written.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from lzero.errors import RankError, StoreError
from lzero.train.checkpoint import (
    Snapshot,
    checkpoint_path,
    newest_checkpoint,
    remove_partial,
    remove_superfluous,
    save_checkpoint,
    scores,
)

logger = logging.getLogger(__name__)


class Saver:
    """An asynchronous context manager, which ends when everything is written. If a checkpoint could not be written, its StoreError (or the
    RankError of a rank that failed meanwhile) is raised at the next `check` or `save`, or at the end."""

    def __init__(self, directory: Path, *, keep: int, keep_best: bool) -> None:
        self._directory = directory
        self._keep = keep
        self._keep_best = keep_best
        self._thread = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="checkpoint", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._writing: asyncio.Future[Path] | None = None
        self._best = max(scores(directory).values(), default=float("-inf"))
        self.newest = newest_checkpoint(directory)
        """The last checkpoint, which may still be in progress."""

    async def __aenter__(self) -> Self:
        """Remove what a killed run had not removed yet. Raises StoreError."""
        try:
            remove_partial(self._directory)
            remove_superfluous(self._directory, keep=self._keep, keep_best=self._keep_best)
        except OSError as error:
            raise StoreError(f"cannot remove old checkpoints in {self._directory}: {error}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._written()
        except (StoreError, RankError) as failure:
            if error is None:
                raise
            logger.warning("%s", failure)  # for run.log only: the run ends with another error, which is reported
        finally:
            self._thread.shutdown()

    def path(self, update: int) -> Path:
        return checkpoint_path(self._directory, update)

    def is_best(self, score: float | None) -> bool:
        """Return whether a policy with this held-out score is to be kept as the best."""
        return self._keep_best and score is not None and score > self._best

    def check(self) -> None:
        """Raise StoreError if the last checkpoint could not be written."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    async def save(self, take: Callable[[], Snapshot]) -> float:
        """Take a snapshot, and begin to write it. Return the seconds that the run was delayed."""
        start = time.monotonic()
        await self._written()
        loop = asyncio.get_running_loop()
        snapshot = await loop.run_in_executor(self._thread, take)
        self._writing = loop.run_in_executor(self._thread, self._write, snapshot)
        self.newest = self.path(snapshot.progress.update)
        if snapshot.score is not None:
            self._best = max(self._best, snapshot.score)
        return time.monotonic() - start

    def _write(self, snapshot: Snapshot) -> Path:
        return save_checkpoint(self._directory, snapshot, keep=self._keep, keep_best=self._keep_best)

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await asyncio.shield(writing)
