"""Keep the batches of optimiser steps that were skipped because the loss or the gradient was not finite.

    RUN/episodes/skipped/train-000007.parquet     a row per sample: the optimiser step of update 7, the reason, and all that it would
                                                  have learned from

pandas reads the file directly. `read_skipped` returns the same samples: collate and score them again with the weights of a checkpoint.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from msgspec import structs

from lzero.algo.batches import Scored
from lzero.errors import TrainError
from lzero.store import RunDirectory, read_rows
from lzero.store.tables import unpacked
from lzero.types import Sample

LEARNED = ("advantages", "reference_logprobs", "old_logprobs", "values", "value_targets")
"""Columns of `Scored` with a number for each token; the last two are None without a critic."""
MOST_IN_A_ROW = 3
"""Number of consecutive skipped steps that ends the run."""


@dataclass(frozen=True, kw_only=True)
class SkippedStep:
    """A skipped optimiser step. `number` counts the optimiser steps of its update from 0."""

    number: int
    reason: str
    batch: tuple[Scored, ...]


@dataclass(kw_only=True)
class SkipCount:
    """Counts consecutive skipped optimiser steps, over updates and resumed runs."""

    in_a_row: int = 0

    def made(self) -> None:
        self.in_a_row = 0

    def skipped(self, what: str) -> None:
        """Count a skipped step. Raises TrainError at the third in a row; `what` describes the last one."""
        self.in_a_row += 1
        if self.in_a_row >= MOST_IN_A_ROW:
            raise TrainError(
                f"{what}, {MOST_IN_A_ROW} in a row. Their batches are in the run's episodes/skipped; "
                "resume from the last checkpoint (--resume) with a lower train.lr or another train.grad_clip"
            )


def write_skipped(run: RunDirectory, steps: Iterable[SkippedStep], *, update: int) -> None:
    """Write all skipped steps of one update; an earlier file of it is replaced. Raises StoreError."""
    rows = [
        {
            "optimiser_step": step.number,
            "reason": step.reason,
            **structs.asdict(row.sample),
            **{name: getattr(row, name) for name in LEARNED},
        }
        for step in steps
        for row in step.batch
    ]
    run.write_skipped(rows, update=update)


def read_skipped(path: Path, *, update: int) -> Sequence[SkippedStep]:
    """Return the steps that `write_skipped` wrote, exactly; [] for an update that skipped none. Raises StoreError."""
    steps = []
    rows = read_rows(path, "skipped", phase="train", update=update)
    for (number, reason), group in groupby(rows, key=lambda row: (row["optimiser_step"], row["reason"])):
        batch = tuple(Scored(sample=unpacked(row, Sample), **_columns(row)) for row in group)
        steps.append(SkippedStep(number=number, reason=reason, batch=batch))
    return steps


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if row[name] is None else tuple(row[name]) for name in LEARNED}
