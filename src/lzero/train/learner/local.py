"""Learn in the process that runs the episodes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from lzero.errors import EngineError, TrainError
from lzero.protocols import Engine
from lzero.store import RunDirectory
from lzero.threads import several
from lzero.train.checkpoint import Progress, Snapshot
from lzero.train.metrics import Stopwatch, advantage_metrics
from lzero.train.publish import Publisher, RestartingEngine
from lzero.train.skipped import write_skipped
from lzero.train.trainer import Trainer
from lzero.train.transfer import open_transfer
from lzero.types import Group

logger = logging.getLogger(__name__)
T = TypeVar("T")


@runtime_checkable
class ComputingEngine(Protocol):
    """An engine that lends its thread."""

    def compute(self, function: Callable[[], T]) -> Awaitable[T]:
        """Call `function` in the thread where this process computes fastest, without blocking the event loop, and return its result."""


class LearnerThread:
    """Thread for the learner's computations, with several threads of torch; for engines that have no such thread in this process."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "lzero-learner", initializer=torch.set_num_threads, initargs=(several(),))

    async def compute(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


async def computed(function: Callable[[], T]) -> T:
    """Call `function` in a thread with several threads of torch, which ends afterwards, and return its result."""
    thread = LearnerThread()
    try:
        return await thread.compute(function)
    finally:
        thread.close()


class LocalLearner:
    """A `Trainer` in this process, and the engine that gets its weights. Implements `Learner`.

    It computes in the engine's thread, where torch's threads are warm, if the engine runs in this process and samples nothing during
    updates. Otherwise it computes in a thread of its own. It records advantages and skipped steps in `run`. Between updates, it sends the
    weights again if a server of the engine was restarted.
    """

    def __init__(self, trainer: Trainer, engine: Engine, run: RunDirectory) -> None:
        self._trainer = trainer
        self._transfer = open_transfer(engine, trainer.model)
        self._thread = engine if isinstance(engine, ComputingEngine) and not trainer.lags else LearnerThread()
        self._publisher = Publisher(
            trainer.model,
            engine,
            self._transfer,
            max_tokens=trainer.config.agent.max_tokens,
            compute=self._thread.compute,
            policy=trainer,
            request_s=trainer.config.rollout.request_timeout_s,
        )
        self._run = run
        self._engine = engine
        self._policy = asyncio.Condition()
        """Held while weights change or are sent."""
        self._published: int | None = None
        """Version of the current weights; None until they are published."""
        self._restoring: asyncio.Task[None] | None = None

    @property
    def skipped_in_a_row(self) -> int:
        return self._trainer.skips.in_a_row

    async def unless_lost(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`, which a learner on several ranks cancels if it loses one."""
        return await work

    async def learn(self, groups: Sequence[Group], *, update: int) -> dict[str, float]:
        async with self._policy:
            self._published = None
            return await self._thread.compute(partial(self._update, groups, update))

    async def publish(self, *, version: int) -> dict[str, float]:
        async with self._policy:
            published = await self._publisher.publish(version=version)
            self._published = version
            self._policy.notify_all()
        if not isinstance(self._engine, RestartingEngine):
            return published
        if self._restoring is None:
            self._restoring = asyncio.create_task(self._restore(self._engine))
        return published | self._engine.take_metrics()

    async def close(self) -> None:
        if self._restoring is not None:
            self._restoring.cancel()
            with suppress(asyncio.CancelledError):
                await self._restoring
        await self._transfer.close()
        if isinstance(self._thread, LearnerThread):
            self._thread.close()

    async def _restore(self, engine: RestartingEngine) -> None:
        """Publish the current version again after each restart of a server. During an update, wait for the next version."""
        while True:
            before = self._published
            await engine.lacks_weights()
            async with self._policy:
                await self._policy.wait_for(lambda: self._published is not None)
                assert self._published is not None
                if self._published != before:  # the server may have got its weights with them
                    continue
                try:
                    await self._publisher.publish(version=self._published)
                except Exception as error:
                    trace = not isinstance(error, (EngineError, TrainError))
                    logger.error("version %d could not be sent again: %s", self._published, error, exc_info=trace)
                    engine.give_up(f"did not get version {self._published} again: {error}")

    def snapshot(self, progress: Progress, score: float | None) -> Snapshot:
        return self._trainer.snapshot(progress, score)

    def _update(self, groups: Sequence[Group], update: int) -> dict[str, float]:
        """Make one update of the weights from `groups`, and return its metrics and the seconds of each phase."""
        trainer, watch = self._trainer, Stopwatch()
        samples = trainer.samples(groups)
        self._publisher.probe.take_stretch(max((sample.token_ids for sample in samples), key=len, default=()))
        scores = trainer.score(samples)
        watch.lap("score")
        credited = trainer.credit(groups, samples, scores, update=update)
        advantages: Mapping[str, tuple[float, ...]] = {name: own.steps for name, own in credited.items()}
        self._run.write_advantages(advantages, update=update)
        watch.lap("credit")
        keep = partial(write_skipped, self._run, update=update)
        metrics = trainer.update(trainer.scored(samples, scores, credited), update=update, on_skip=keep)
        watch.lap("optimise")
        seconds = watch.seconds["time/score_s"] + watch.seconds["time/optimise_s"]
        speed = sum(len(sample.token_ids) for sample in samples) / max(seconds, 1e-9)
        return {**metrics, **advantage_metrics(advantages), "train/tokens_per_s": speed, **watch.seconds}
