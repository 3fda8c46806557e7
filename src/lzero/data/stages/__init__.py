"""Data stages: each reads sets and writes one, in constant memory. A new stage is a new file with a class like `Stage`.

    run_stage(Merge(), ["raw/nq", "raw/hotpot.jsonl"], Path("merged"))

A stage may read all rows before it decides (`prepare`), then decides about each batch: what its rows become, and which are dropped, why.
Every row that goes in comes out in tasks.parquet or in dropped.parquet.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from lzero.data.manifest import Manifest
from lzero.data.new_set import NewSet
from lzero.data.stages.inputs import Opened, open_inputs
from lzero.data.table import TASKS
from lzero.types import Json


@dataclass(frozen=True)
class Part:
    """A batch of the rows of all inputs. `start` is the number of rows before it, over all inputs."""

    batch: pa.RecordBatch
    start: int
    origin: Opened

    @property
    def row_indices(self) -> pa.Array:
        """Index of each row, over all inputs."""
        return pa.array(range(self.start, self.start + self.batch.num_rows), pa.int64())


@dataclass(frozen=True)
class Rows:
    """The rows of all inputs, one input after the other, as often as they are asked for."""

    inputs: Sequence[Opened]

    def parts(self, columns: Sequence[str] = tuple(TASKS.names)) -> Iterator[Part]:
        """Yield batches of these columns. Raises DataError."""
        start = 0
        for origin in self.inputs:
            for batch in origin.batches(columns):
                yield Part(batch, start, origin)
                start += batch.num_rows


@dataclass(frozen=True)
class Decision:
    """A batch as the stage changed it, and the rows to drop: those with a reason (not null). Few reasons occur; a detail names the case."""

    batch: pa.RecordBatch
    reasons: pa.Array
    details: pa.Array | None = None


class Stage(Protocol):
    """One pass over sets."""

    name: str
    """The command's."""
    kept: Sequence[str]
    """Files in the new set's directory that a killed attempt leaves to the next one."""

    def options(self) -> Mapping[str, Json]:
        """Return the options that decide, for the manifest."""

    def prepare(self, rows: Rows, scratch: Path) -> None:
        """Read what the decisions need. `scratch` is a directory for it, inside the new set's. Raises DataError, ConfigError."""

    def decide(self, part: Part) -> Decision:
        """Decide about a batch. The batches come in order, each once. Raises DataError."""

    def counts(self) -> Mapping[str, int]:
        """Return further counts for the manifest, once all is decided."""


class Keep:
    """The stage that keeps every row as it is; others override what they do differently."""

    name = "keep"
    kept: Sequence[str] = ()

    def options(self) -> Mapping[str, Json]:
        return {}

    def prepare(self, rows: Rows, scratch: Path) -> None:
        pass

    def decide(self, part: Part) -> Decision:
        return Decision(part.batch, pa.nulls(part.batch.num_rows, pa.string()))

    def counts(self) -> Mapping[str, int]:
        return {}


def run_stage(
    stage: Stage, specs: Sequence[str], directory: Path, *, columns: Mapping[str, str] | None = None
) -> Manifest:
    """Read what `specs` name, and write the set `directory`. Return its manifest.

    `columns`: field → column, for files that are no sets. Raises ConfigError, DataError, StoreError; then there is no such directory.
    """
    with NewSet(directory, stage=stage.name, kept=stage.kept) as new:
        rows = Rows(open_inputs(specs, new, columns=columns or {}))
        stage.prepare(rows, new.scratch)
        for part in rows.parts():
            decision = stage.decide(part)
            new.link_files(part.batch, part.origin.root)
            new.write(decision.batch, decision.reasons, decision.details)
        inputs = [origin.described() for origin in rows.inputs]
        return new.finish(options=stage.options(), inputs=inputs, counts=stage.counts())
