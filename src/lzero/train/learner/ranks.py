"""Learn on several ranks; this process is rank 0."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from lzero.errors import RankError
from lzero.protocols import Engine
from lzero.store import RunDirectory
from lzero.train.learner.local import LocalLearner
from lzero.train.ranks.trainer import RankTrainer

T = TypeVar("T")


class RankLearner(LocalLearner):
    """A learner whose passes all ranks make. Implements `Learner`."""

    def __init__(self, trainer: RankTrainer, engine: Engine, run: RunDirectory) -> None:
        super().__init__(trainer, engine, run)
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        trainer.dispatcher.group.on_failure(lambda problem: loop.call_soon_threadsafe(self._note, problem))

    async def unless_lost(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`. If a rank fails, cancel it, and raise RankError: episodes would run on in vain."""
        working = asyncio.create_task(work)
        try:
            await asyncio.wait((working, self._lost), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return await working
            raise RankError(self._lost.result())
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _note(self, problem: str) -> None:
        if not self._lost.done():
            self._lost.set_result(problem)
