"""Reinforcement learning, one update after another, strictly on-policy.

           ┌──────────── publish: weights, probed ─────────────┐
           ▼                                                   │
        engine ──▶ stream ──Groups──▶ learn ──▶ new weights ──┤
                      │                  │                     │
                      └─────▶ record ◀───┴────── metrics ──────┤
                                                               ▼
                                                on_update, evaluate, checkpoint

No episode runs during an update, so the policy that learns from a token has drawn it. Update u (from 0) learns from episodes of policy
version u, and makes version u + 1.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lzero.config import Config
from lzero.errors import CreditError
from lzero.rollout.concurrency import unless
from lzero.rollout.stream import Collected
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

    def published(self, version: int) -> None:
        """Note that the engine samples from this policy version now, so that more groups may begin."""

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
    score: float | None = None

    async def measure() -> None:
        """Evaluate the current policy, if that is due."""
        nonlocal score
        score = None
        if evaluate is not None and _is_due(progress.update, every, settings.updates):
            score = await kept(evaluate(progress.update))

    async def save() -> float:
        return await saver.save(partial(learner.snapshot, progress, score))

    async def keep() -> None:
        """Save the state reached."""
        if saver.newest != saver.path(progress.update):
            await save()

    async def kept(work: Coroutine[Any, Any, Result]) -> Result | None:
        """Return the result of `work`, unless stopped. If it fails, save the state first, because `work` does not touch the policy."""
        try:
            return await unless(stop, work)
        except Exception:
            await keep()
            raise

    await learner.publish(version=progress.update)
    stream.published(progress.update)
    keep_best = settings.keep_best and every > 0
    async with Saver(run.checkpoints, keep=settings.keep_checkpoints, keep_best=keep_best) as saver:
        await measure()
        held_up_s = 0.0
        while progress.update < settings.updates:
            if saver.is_best(score):
                held_up_s = await save()
            started = time.monotonic()
            collected = await kept(stream.take(progress.update))
            if collected is None:
                break
            learned = await _learn(learner, collected, run, update=progress.update, keep=keep)
            timings = {"time/checkpoint_s": held_up_s, "time/update_s": time.monotonic() - started}
            metrics = {**collected.metrics, **learned, **timings, **memory_metrics()}
            run.append_metrics({**metrics, **collected.failing.line()}, phase="train", update=progress.update)
            saver.check()
            progress = Progress(
                update=progress.update + 1, stream=stream.state, skipped_in_a_row=learner.skipped_in_a_row
            )
            stream.published(progress.update)
            on_update(Update(policy_version=progress.update, metrics=metrics))
            await measure()
            held_up_s = await save() if progress.update % settings.checkpoint_every == 0 else 0.0
        last = saver.path(progress.update)
        if saver.newest != last or saver.is_best(score):
            await save()
    logger.info("%d updates made; checkpoint %s", progress.update, last)
    return Outcome(finished=progress.update >= settings.updates, progress=progress, checkpoint=last)


async def _learn(
    learner: Learner, collected: Collected, run: RunDirectory, *, update: int, keep: Callable[[], Awaitable[None]]
) -> dict[str, float]:
    """Record the episodes, learn from them, and publish the new weights. Return the metrics and the seconds of each phase.

    Calls `keep` if learning fails before it touches the policy.
    """
    watch = Stopwatch()
    run.write_records(collected.records, phase="train", update=update)
    watch.lap("record")
    try:
        learned = await learner.learn(collected.groups, update=update)
    except CreditError:
        await keep()
        raise
    published = await learner.publish(version=update + 1)
    return {**learned, **published.metrics, **watch.seconds}


def _is_due(update: int, every: int, last: int) -> bool:
    return update in (0, last) or (every > 0 and update % every == 0)
