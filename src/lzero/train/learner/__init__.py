"""Interface through which the loop learns from groups of episodes. `local.py` implements it in this process."""

from collections.abc import Sequence
from typing import Protocol

from lzero.train.checkpoint import Progress, Snapshot
from lzero.types import Group


class Learner(Protocol):
    """The policy that is trained, its optimizer, and everything else that an update needs."""

    @property
    def skipped_in_a_row(self) -> int:
        """Number of consecutive optimiser steps, up to the last one, that were skipped because loss or gradient was not finite."""

    async def learn(self, groups: Sequence[Group], *, update: int) -> dict[str, float]:
        """Make one update without blocking the event loop, and return its metrics.

        Raises TrainError if no episode of the groups has a step, and after too many consecutive skipped steps. Raises CreditError, a kind
        of TrainError, only while the policy is unchanged.
        """

    async def publish(self, *, version: int) -> dict[str, float]:
        """Send the current policy to the engine as `version`, probe that it arrived, and return metrics of both.

        Raises EngineError if the transfer fails, and TrainError if the probe does.
        """

    async def close(self) -> None:
        """Release the weight transfer."""

    def snapshot(self, progress: Progress, score: float | None) -> Snapshot:
        """Return a copy of the current state for a checkpoint; `score` is this policy's score on held-out tasks.

        The loop calls it in a thread, and calls no other method meanwhile.
        """
