"""Checkpoints are written while the run goes on.

    loop      ──▶ snapshot ──▶ next update …                                ──▶ snapshot (waits for its place)
    thread              └──▶ write beside, rename, remove old ones ──▶ place free ─┘

One is written at a time. What the loop waits for is the snapshot, and the writing of the one before if that is still under way.
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

from lzero.errors import StoreError
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
    """An asynchronous context manager, which ends when all is written. A checkpoint that could not be written raises its StoreError
    at the next `check`, `save`, or at the end."""

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
        """The last checkpoint, though it may still be under way."""

    async def __aenter__(self) -> Self:
        """Remove what a run that was killed as it saved had still to remove. Raises StoreError."""
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
        except StoreError as failure:
            if error is None:
                raise
            logger.warning("%s", failure)  # for run.log: the run ends for a reason of its own, which is the one to tell
        finally:
            self._thread.shutdown()

    def path(self, update: int) -> Path:
        return checkpoint_path(self._directory, update)

    def is_best(self, score: float | None) -> bool:
        """Whether a policy of this held-out score is to be kept for it."""
        return self._keep_best and score is not None and score > self._best

    def check(self) -> None:
        """Raises StoreError if the last checkpoint could not be written."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    async def save(self, take: Callable[[], Snapshot]) -> float:
        """Take a snapshot, and have it written; returns how long the run was held up, in seconds."""
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
