"""Reinforcement learning, one update after another.

           ┌──────────── publish: weights, probed ─────────────┐
           ▼                                                   │
        engine ──▶ stream ──Groups──▶ learn ──▶ new weights ──┤
                      │                  │                     │
                      └─────▶ record ◀───┴────── metrics ──────┤
                                                               ▼
                                                on_update, evaluate, checkpoint

Update u (from 0) makes policy version u + 1. Without lag, no episode runs during an update, so the policy that learns from a token, version
u, has drawn it. With `rollout.max_lag`, the stream goes on sampling while the learner learns and while weights move. Evaluations sample
from the version that they are recorded for, because the loop publishes nothing meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from lzero.algo.lag import lag_problems
from lzero.config import Config
from lzero.errors import CreditError
from lzero.rollout.batch import Collected
from lzero.rollout.concurrency import unless
from lzero.store import RunDirectory
from lzero.train.checkpoint import Progress
from lzero.train.learner import Learner
from lzero.train.metrics import Stopwatch, memory_metrics
from lzero.train.saver import Saver
from lzero.types import Json, Update

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class GroupStream(Protocol):
    """Source of batches of groups (`lzero.rollout.stream`)."""

    @property
    def state(self) -> dict[str, Json]:
        """The state, besides the policy, that the next batch depends on. A checkpoint holds it."""

    async def take(self, update: int) -> Collected:
        """Return the batch of this update when its groups are complete. Cancelled when the run is stopped."""

    @property
    def max_lag(self) -> int:
        """Updates by which the policy that draws a token may be older than the one that learns from it."""

    def published(self, version: int) -> None:
        """Note that the engine samples from this policy version now, so that more groups may begin."""

    def limit(self, lag: int) -> None:
        """Lower `max_lag`."""

    async def saved(self, state: Mapping[str, Json]) -> None:
        """Note that the checkpoint with this state is complete, so that the files of earlier groups can be removed."""

    async def close(self) -> None:
        """End the episodes under way."""


Evaluate = Callable[[int], Coroutine[None, None, float]]
"""Returns the held-out score of a policy version, and evaluates and records it if that has not been done."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a run: `finished`, or stopped early and ready to resume from `checkpoint`."""

    finished: bool
    progress: Progress
    checkpoint: Path


async def train(
    learner: Learner,
    progress: Progress,
    *,
    config: Config,
    stream: GroupStream,
    run: RunDirectory,
    evaluate: Evaluate | None = None,
    on_update: Callable[[Update], None] = lambda update: None,
    stop: asyncio.Event | None = None,
) -> Outcome:
    """Train until `train.updates` are made or `stop` is set. Either way, save a checkpoint of the state reached.

    The policy is evaluated first and last, and every `eval.every` updates. `stop` cancels the running episodes (a resumed run draws the
    same tasks again) and lets a running update finish.

    Raises the error of any stage. The last checkpoint and all records up to it are then complete. If episodes or the estimator failed, it
    holds the state reached; if an update had begun, it is an earlier one.
    """
    stop = stop or asyncio.Event()
    settings, every = config.train, config.eval.every
    await learner.publish(version=progress.update)
    stream.published(progress.update)
    keep_best = settings.keep_best and every > 0
    async with Saver(run.checkpoints, keep=settings.keep_checkpoints, keep_best=keep_best) as saver:
        reached = _Reached(learner, saver, progress, stream)

        async def measure() -> None:
            """Evaluate the current policy, if that is due."""
            if evaluate is not None and _is_due(reached.update, every, settings.updates):
                reached.score = await reached.kept(unless(stop, evaluate(reached.update)))

        await measure()
        held_up_s = 0.0
        while reached.update < settings.updates:
            if reached.is_best:
                held_up_s = await reached.save()
            started = time.monotonic()
            collected = await reached.kept(unless(stop, stream.take(reached.update)))
            if collected is None:
                break
            learned = await _learn(reached, collected, run)
            timings = {"time/checkpoint_s": held_up_s, "time/update_s": time.monotonic() - started}
            metrics = {**collected.metrics, **learned, **timings, **memory_metrics()}
            run.append_metrics({**metrics, **collected.failing.line()}, phase="train", update=reached.update)
            _lower_the_lag(stream, lag_problems(metrics, config.rollout))
            saver.check()
            reached.advance(stream.state)
            stream.published(reached.update)
            on_update(Update(policy_version=reached.update, metrics=metrics))
            await measure()
            held_up_s = await reached.save() if reached.update % settings.checkpoint_every == 0 else 0.0
        if reached.is_best or not reached.is_saved:
            await reached.save()
    await stream.saved(reached.progress.stream)
    logger.info("%d updates made; checkpoint %s", reached.update, saver.newest)
    return Outcome(
        finished=reached.update >= settings.updates, progress=reached.progress, checkpoint=saver.path(reached.update)
    )


class _Reached:
    """The state of a run: its progress, and the held-out score of its policy, if that was evaluated."""

    def __init__(self, learner: Learner, saver: Saver, progress: Progress, stream: GroupStream) -> None:
        self.learner = learner
        self.progress = progress
        self.score: float | None = None
        self._saver = saver
        self._stream = stream
        self._saved: Mapping[str, Json] | None = None
        """State of the stream in the last checkpoint of this process, which may still be in progress."""

    @property
    def update(self) -> int:
        return self.progress.update

    @property
    def is_best(self) -> bool:
        """Whether no saved policy scores as well, and the best one is to be kept."""
        return self._saver.is_best(self.score)

    @property
    def is_saved(self) -> bool:
        return self._saver.newest == self._saver.path(self.update)

    def advance(self, stream: dict[str, Json]) -> None:
        """Count one more update, after which the stream of groups has this state."""
        skipped = self.learner.skipped_in_a_row
        self.progress = Progress(update=self.update + 1, stream=stream, skipped_in_a_row=skipped)
        self.score = None

    async def save(self) -> float:
        """Save a checkpoint. Return the seconds for which that held the run up."""
        held_up_s = await self._saver.save(partial(self.learner.snapshot, self.progress, self.score))
        if self._saved is not None:
            await self._stream.saved(self._saved)  # the saver has waited for it
        self._saved = self.progress.stream
        return held_up_s

    async def keep(self) -> None:
        """Save a checkpoint, if there is none of this state."""
        if not self.is_saved:
            await self.save()

    async def kept(self, work: Awaitable[Result]) -> Result:
        """Return the result of `work`. If it fails, keep the state first, because `work` does not touch the policy."""
        try:
            return await work
        except Exception:
            await self.keep()
            raise


async def _learn(reached: _Reached, collected: Collected, run: RunDirectory) -> dict[str, float]:
    """Record the episodes, learn from them, and publish the new weights. Return the metrics and the seconds of each phase.

    Saves the state first if learning fails before it touches the policy.
    """
    watch, learner, update = Stopwatch(), reached.learner, reached.update
    # In a thread, because episodes may run meanwhile.
    await asyncio.to_thread(run.write_records, collected.records, phase="train", update=update)
    watch.lap("record")
    try:
        learned = await learner.learn(collected.groups, update=update)
    except CreditError:
        await reached.keep()
        raise
    published = await learner.publish(version=update + 1)
    return {**learned, **published, **watch.seconds}


def _lower_the_lag(stream: GroupStream, problems: Sequence[str]) -> None:
    """Lower the stream's `max_lag` by one, and log a warning, if there are problems."""
    if problems and stream.max_lag > 0:
        stream.limit(stream.max_lag - 1)
        logger.warning("%s: the lag is at most %d from now on", "; ".join(problems), stream.max_lag)


def _is_due(update: int, every: int, last: int) -> bool:
    return update in (0, last) or (every > 0 and update % every == 0)
