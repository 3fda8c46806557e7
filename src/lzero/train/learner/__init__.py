"""What learns from groups of episodes. The loop knows no more of it than this; `local.py` is the one that learns in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lzero.train.checkpoint import Progress, Snapshot
from lzero.types import Group


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """How the weights of a policy version reached the engine."""

    version: int
    gap: float
    """Largest difference between the two sides' log-probabilities of the probe, in nats."""
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        return {"train/probe_gap": self.gap, "time/transfer_s": self.seconds}


class Learner(Protocol):
    """Holds the policy that is trained, its optimizer and what the update needs beside them."""

    @property
    def skipped_in_a_row(self) -> int:
        """Number of last optimiser steps that were not made, because loss or gradient was not finite; a checkpoint holds it."""

    async def learn(self, groups: Sequence[Group], *, update: int) -> dict[str, float]:
        """Make one update; the event loop runs on meanwhile. Returns metrics. Raises TrainError for groups without a step, and for too
        many steps in a row that are not finite."""

    async def publish(self, *, version: int) -> SyncReport:
        """Have the engine sample from the policy as it is now, as `version`. Raises TrainError if the two sides then disagree."""

    def snapshot(self, progress: Progress, score: float | None) -> Snapshot:
        """Return what a checkpoint holds, as it is now; `score` is this policy's on held-out tasks. A thread calls it while nothing
        else is asked of the learner."""
