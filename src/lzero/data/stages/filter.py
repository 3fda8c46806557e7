"""`filter`: keep the rows whose values are in bounds. Each other row has the first bound that it breaks as its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from lzero.data.stages import Decision, Keep, Part, Rows
from lzero.data.stages.measures import Measure, check_known, number_column, text_column
from lzero.errors import DataError
from lzero.types import Json

PASS_RATE = "pass_rate"  # noqa: S105  no password


class Bound(Protocol):
    """A condition on one value of a row."""

    @property
    def name(self) -> str:
        """The value's."""

    @property
    def reason(self) -> str:
        """Why a row is dropped that breaks it."""

    def measure(self) -> Measure:
        """Return what reads the values; null for a row without one."""

    def broken(self, values: pa.Array) -> pa.Array:
        """Return which of the values break it; null for null."""


@dataclass(frozen=True)
class AtLeast:
    """`AtLeast("question_chars", 12)`."""

    name: str
    least: float

    @property
    def reason(self) -> str:
        return f"{self.name} < {self.least:g}"

    def measure(self) -> Measure:
        return number_column(self.name)

    def broken(self, values: pa.Array) -> pa.Array:
        return pc.less(values, self.least)


@dataclass(frozen=True)
class AtMost:
    """`AtMost("pass_rate", 0.9)`."""

    name: str
    most: float

    @property
    def reason(self) -> str:
        return f"{self.name} > {self.most:g}"

    def measure(self) -> Measure:
        return number_column(self.name)

    def broken(self, values: pa.Array) -> pa.Array:
        return pc.greater(values, self.most)


@dataclass(frozen=True)
class Among:
    """`Among("ability", ("qa", "math"))`; with `wanted=False`, all values but these."""

    name: str
    values: tuple[str, ...]
    wanted: bool = True

    @property
    def reason(self) -> str:
        return f"{self.name} is {'not ' if self.wanted else ''}{' or '.join(self.values)}"

    def measure(self) -> Measure:
        return text_column(self.name)

    def broken(self, values: pa.Array) -> pa.Array:
        found = pc.is_in(values, pa.array(self.values, pa.string()))
        found = pc.invert(found) if self.wanted else found
        return pc.if_else(pc.is_valid(values), found, None)


class Filter(Keep):
    """Keeps the rows within every bound. A row without a value that is bounded is dropped, unless `keep_missing`."""

    name = "filter"

    def __init__(
        self, bounds: Sequence[Bound], *, keep_missing: bool = False, pass_rates: Mapping[str, float] | None = None
    ) -> None:
        """`pass_rates`: id → observed pass rate, the value that bounds on `pass_rate` mean."""
        self._bounds = tuple(bounds)
        self._keep_missing = keep_missing
        self._rates = pass_rates
        self._rated = 0

    def options(self) -> Mapping[str, Json]:
        return {"bounds": [bound.reason for bound in self._bounds], "keep_missing": self._keep_missing}

    def prepare(self, rows: Rows, scratch: Path) -> None:
        for bound in self._bounds:
            if not (bound.name == PASS_RATE and self._rates is not None):
                check_known(bound.name, rows)

    def decide(self, part: Part) -> Decision:
        batch = part.batch
        reasons = details = pa.nulls(batch.num_rows, pa.string())
        for bound in self._bounds:
            values = self._values(bound, batch)
            broken = bound.broken(values)
            reason = pc.if_else(pc.fill_null(broken, False), bound.reason, None)
            if not self._keep_missing:
                reason = pc.coalesce(reason, pc.if_else(pc.is_null(values), f"no {bound.name}", None))
            first = pc.and_(pc.is_null(reasons), pc.is_valid(reason))
            details = pc.if_else(first, pc.cast(values, pa.string()), details)
            reasons = pc.coalesce(reasons, reason)
        return Decision(batch, reasons, details)

    def counts(self) -> Mapping[str, int]:
        """Raises DataError if pass rates are bounded and no row has one: they are of other tasks."""
        if self._rates is None:
            return {}
        if not self._rated:
            raise DataError("no row has a pass rate: the evaluations are of tasks with other ids")
        return {"rows with a pass rate": self._rated}

    def _values(self, bound: Bound, batch: pa.RecordBatch) -> pa.Array:
        if bound.name != PASS_RATE or self._rates is None:
            return bound.measure()(batch)
        found = pa.array([self._rates.get(name) for name in batch["id"].to_pylist()], pa.float64())
        self._rated += len(found) - found.null_count
        return found
