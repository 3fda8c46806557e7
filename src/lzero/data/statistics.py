"""What is in a set: how often each value occurs, and how numbers are distributed."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from lzero.data.stages.measures import NUMBERS, TEXTS

MAX_VALUES: Final = 1_000
"""Different values of a text or a number that are counted one by one."""
OTHERS: Final = "(others)"
METADATA: Final = "metadata."
"""Beginning of the names of keys of the metadata."""
QUANTILES: Final = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


class Numbers(Struct, frozen=True, kw_only=True):
    """The distribution of a number, over the rows that have one."""

    rows: int
    mean: float
    quantiles: tuple[float, ...]
    """The values at QUANTILES, within 1 % of the exact ones."""
    counts: dict[float, int]
    """Value → rows, in ascending order; rounded to 3 digits once there are more than MAX_VALUES."""


class Statistics(Struct, frozen=True, kw_only=True):
    """Distributions of a set's values, by name."""

    rows: int
    texts: dict[str, dict[str, int]]
    """Text → value → rows, the most frequent first; "" for a row without one."""
    numbers: dict[str, Numbers]


def statistics_of(batches: Iterable[pa.RecordBatch]) -> Statistics:
    """Return the distributions of rows, in constant memory."""
    rows = 0
    texts: dict[str, Counter[str]] = {name: Counter() for name in TEXTS}
    numbers: dict[str, Counter[float]] = {name: Counter() for name in NUMBERS}
    totals: Counter[str] = Counter()
    for batch in batches:
        rows += batch.num_rows
        for name in TEXTS:
            _add(texts[name], _counts(batch[name]))
        for key, values in _metadata(batch):
            _add(texts.setdefault(METADATA + key, Counter()), _counts(values))
        for name, measure in NUMBERS.items():
            values = measure(batch).drop_null()
            totals[name] += pc.sum(values, min_count=0).as_py()
            _add_numbers(numbers[name], _counts(values))
    return Statistics(
        rows=rows,
        texts={
            name: dict(sorted(counts.items(), key=lambda each: (-each[1], each[0]))) for name, counts in texts.items()
        },
        numbers={name: _numbers(counts, totals[name]) for name, counts in numbers.items() if counts},
    )


def _counts(values: pa.Array) -> Iterator[tuple[object, int]]:
    for each in pc.value_counts(values).to_pylist():
        yield each["values"], each["counts"]


def _metadata(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    column = batch["metadata"]
    keys, values = column.keys, column.items
    for key in sorted(pc.unique(keys).to_pylist())[:MAX_VALUES]:
        yield key, values.filter(pc.equal(keys, key))


def _add(counts: Counter[str], found: Iterable[tuple[object, int]]) -> None:
    for value, count in found:
        name = str(value)
        counts[name if name in counts or len(counts) < MAX_VALUES else OTHERS] += count


def _add_numbers(counts: Counter[float], found: Iterable[tuple[object, int]]) -> None:
    for value, count in found:
        assert isinstance(value, float)
        counts[_rounded(value) if len(counts) > MAX_VALUES else value] += count
    if len(counts) > MAX_VALUES:
        rounded: Counter[float] = Counter()
        for value, count in counts.items():
            rounded[_rounded(value)] += count
        counts.clear()
        counts.update(rounded)


def _rounded(value: float) -> float:
    return float(f"{value:.2e}")


def _numbers(counts: Mapping[float, int], total: float) -> Numbers:
    rows = sum(counts.values())
    ascending = sorted(counts.items())
    return Numbers(
        rows=rows,
        mean=total / rows,
        quantiles=tuple(_quantile(ascending, math.ceil(share * rows) or 1) for share in QUANTILES),
        counts=dict(ascending),
    )


def _quantile(ascending: Iterable[tuple[float, int]], rank: int) -> float:
    for value, count in ascending:
        rank -= count
        if rank <= 0:
            return value
    raise AssertionError("a rank beyond the rows")
