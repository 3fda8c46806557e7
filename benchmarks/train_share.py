"""A run of `lzero train`, watched: when was no token sampled, no cell run, and no pass of the model made?"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from lzero.config import make_config
from lzero.engine.local.worker import Worker
from lzero.repl.session import LocalRepl
from lzero.train import score, update
from lzero.train.run import run_training
from lzero.types import Update

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Of the updates' time, all of them together."""

    whole: float
    training: float
    """Of the phase between sampling and the next update."""
    seconds: float
    """An update took."""
    checkpoint_ms: float
    """The longest that an update waited for a checkpoint."""


class Watch:
    """Notes when work was done. Implements `lzero.train.run.Watcher`."""

    def __init__(self) -> None:
        self.busy: list[Interval] = []
        self.updates: list[Interval] = []
        self.training: list[Interval] = []
        self.checkpoint_s = 0.0

    def say(self, sentence: str) -> None:
        pass

    note = say

    def updated(self, update: Update) -> None:
        now = time.monotonic()
        self.updates.append((now - update.metrics["time/update_s"], now))
        trained_s = update.metrics["time/update_s"] - update.metrics["time/rollout_s"]
        self.training.append((now - trained_s, now))
        self.checkpoint_s = max(self.checkpoint_s, update.metrics["time/checkpoint_s"])

    @contextmanager
    def at_work(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.busy.append((started, time.monotonic()))

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.at_work():
                return function(*args, **kwargs)

        return wrapped

    def awaited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.at_work():
                return await function(*args, **kwargs)

        return wrapped

    def outside(self, windows: list[Interval]) -> float:
        """The share of the windows in which nothing was going on."""
        idle = sum(sum(end - start for start, end in gaps(self.busy, window)) for window in windows)
        return idle / sum(end - start for start, end in windows)


def gaps(busy: list[Interval], window: Interval) -> Iterator[Interval]:
    reached, last = window
    for start, end in sorted(busy):
        if start >= last:
            break
        if start > reached:
            yield reached, start
        reached = max(reached, end)
    if reached < last:
        yield reached, last


async def share_outside(directory: Path, *, updates: int) -> Shares:
    config = make_config(
        {
            "run": {"dir": str(directory / "run")},
            "model": {"device": "cpu"},
            "train": {"updates": updates + 1, "checkpoint_every": 1},
            "eval": {"num_tasks": 1},
        }
    )
    watch = Watch()
    with watched(watch):
        await run_training(config, run=None, watcher=watch, stop=asyncio.Event())
    whole, training = watch.updates[1:], watch.training[1:]  # the first one warms up
    seconds = sum(end - start for start, end in whole) / len(whole)
    return Shares(
        whole=watch.outside(whole),
        training=watch.outside(training),
        seconds=seconds,
        checkpoint_ms=1000 * watch.checkpoint_s,
    )


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name in (
            (Worker, "_prefill"),
            (Worker, "_decode"),
            (score, "policy_logprobs"),
            (update, "policy_logprobs"),
            (torch.autograd, "backward"),
            (torch.optim.AdamW, "step"),
        ):
            stack.enter_context(patch.object(owner, name, watch.timed(getattr(owner, name))))
        stack.enter_context(patch.object(LocalRepl, "run", watch.awaited(LocalRepl.run)))
        yield
