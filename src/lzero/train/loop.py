"""Reinforcement learning, one update after another, strictly on-policy.

           ┌───────────────────────────── transfer: weights, probed ─────────────────────────────┐
           ▼                                                                                     │
        engine ──▶ collect ──Groups──▶ samples ──▶ score ──▶ advantages ──▶ batch ──▶ update ────┤
                      │                                          │                               │
                      └───────────────▶ record ◀─────────────────┴──────────── metrics ──────────┤
                                                                                                 ▼
                                                                                  evaluate, checkpoint, on_update

Nothing is collected while an update is made, so every token of a batch is drawn by the policy that learns from it. Update u
(from 0) learns from what version u sampled, and makes version u + 1.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from lzero.rollout.collector import Collected
from lzero.store import RunDirectory
from lzero.train.checkpoint import Progress
from lzero.train.trainer import Trainer
from lzero.train.transfer import LoadingEngine, transfer
from lzero.types import Group, Update

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Collector(Protocol):
    """Makes the batch of one update (`lzero.rollout.collector.Collector` is one)."""

    next_task: int
    """Position of the first task that no update has used."""

    async def collect(self, update: int) -> Collected:
        """Run the episodes of this update. Cancelled when the run is stopped."""


Evaluate = Callable[[int], Coroutine[None, None, Mapping[str, float]]]
"""Evaluate (and record) the policy version given; metrics by name."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: `finished`, or stopped early and ready to resume from `checkpoint`."""

    finished: bool
    progress: Progress
    checkpoint: Path


async def train(
    trainer: Trainer,
    progress: Progress,
    *,
    collector: Collector,
    engine: LoadingEngine,
    run: RunDirectory,
    evaluate: Evaluate | None = None,
    on_update: Callable[[Update], None] = lambda update: None,
    stop: asyncio.Event | None = None,
) -> Outcome:
    """Train until `train.updates` are made or `stop` is set; either way ends with a checkpoint of what was reached.

    `stop` cancels the episodes under way (a resumed run draws the same tasks again) and lets an update under way finish.
    Raises whatever a stage raises; then the last checkpoint and all records up to there are whole.
    """
    stop = stop or asyncio.Event()
    settings = trainer.config.train
    await transfer(trainer.model, engine, version=progress.update)
    saved: Path | None = None
    while progress.update < settings.updates:
        started = time.monotonic()
        collected = await unless(stop, collector.collect(progress.update))
        if collected is None:
            break
        rolled_out = time.monotonic()
        version = progress.update
        run.write_records(collected.records, phase="train", update=version)
        learned = await asyncio.to_thread(_learn, trainer, collected.groups, run, version)
        gap = await transfer(trainer.model, engine, version=version + 1)
        progress = Progress(update=version + 1, next_task=collector.next_task)
        timings = {
            "time/train_s": time.monotonic() - rolled_out,
            "time/update_s": time.monotonic() - started,
        }
        metrics = {**collected.metrics, **learned, "train/probe_gap": gap, **timings}
        run.append_metrics(metrics, phase="train", update=version)
        saved = None
        if progress.update % settings.checkpoint_every == 0:
            saved = trainer.save(run.checkpoints, progress)
        on_update(Update(policy_version=progress.update, metrics=metrics))
        if evaluate and _is_due(progress.update, trainer.config.eval.every, settings.updates):
            await unless(stop, evaluate(progress.update))
    saved = saved or trainer.save(run.checkpoints, progress)
    logger.info("%d updates made; checkpoint %s", progress.update, saved)
    return Outcome(finished=progress.update >= settings.updates, progress=progress, checkpoint=saved)


def _learn(trainer: Trainer, groups: Sequence[Group], run: RunDirectory, update: int) -> dict[str, float]:
    """From groups to new weights; the event loop runs on meanwhile."""
    samples = trainer.samples(groups)
    scores = trainer.score(samples)
    advantages = trainer.advantages(groups, samples, scores, update=update)
    run.write_advantages(advantages, update=update)
    return trainer.update(trainer.scored(samples, scores, advantages), update=update)


def _is_due(update: int, every: int, last: int) -> bool:
    """The evaluation after the last update is not the loop's: a run ends with its own."""
    return every > 0 and update % every == 0 and update < last


async def unless(stop: asyncio.Event, work: Coroutine[None, None, Result]) -> Result | None:
    """The result of `work`, or None if `stop` is set before; then `work` is cancelled, and waited for."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
