"""`leaks`: find the rows of a train set whose questions a benchmark asks, in their normal form or in their n-grams.

An n-gram is N words in a row. A row overlaps with a question of a benchmark if it has at least `share` of that question's n-grams.
Questions of fewer than N words are compared as a whole only. The benchmarks' questions are kept in memory; the train set is not.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa

from lzero.data.normal import normal_column
from lzero.data.stages import Decision, Keep, Part, Rows
from lzero.data.stages.inputs import Opened, opened
from lzero.errors import DataError
from lzero.text import counted
from lzero.types import Json

SHOWN = 3
"""Pairs that an error names."""
SAME, OVERLAP = "same question as a benchmark", "shares n-grams with a benchmark"


@dataclass(frozen=True)
class Leak:
    """A row of the train set, and the benchmark's question that it leaks."""

    row: str
    """Its id."""
    reason: str
    benchmark: str
    """Name of the benchmark and id of the question."""


class Benchmarks:
    """The questions of benchmarks, by their normal forms and n-grams."""

    def __init__(self, benchmarks: Sequence[Opened], *, words: int, share: float) -> None:
        """`words`: N, at least 1. Raises DataError."""
        self._words = words
        self._share = share
        self._names: list[str] = []
        self._num_grams: list[int] = []
        self._questions: dict[str, int] = {}
        self._grams: dict[str, list[int]] = {}
        for benchmark in benchmarks:
            for batch in benchmark.batches(["id", "question"]):
                questions = normal_column(batch["question"]).to_pylist()
                for name, question in zip(batch["id"].to_pylist(), questions, strict=True):
                    self._add(f"{benchmark.name}: {name}", question)

    def leaks(self, batch: pa.RecordBatch) -> Iterator[Leak | None]:
        """Yield for each row the first question that it leaks; None if it leaks none."""
        for name, question in zip(batch["id"].to_pylist(), normal_column(batch["question"]).to_pylist(), strict=True):
            if (number := self._questions.get(question)) is not None:
                yield Leak(name, SAME, self._names[number])
                continue
            found = Counter(number for gram in self._split(question) for number in self._grams.get(gram, ()))
            number = min((each for each in found if found[each] >= self._share * self._num_grams[each]), default=None)
            yield None if number is None else Leak(name, OVERLAP, self._names[number])

    def _add(self, name: str, question: str) -> None:
        number = len(self._names)
        grams = self._split(question)
        self._names.append(name)
        self._num_grams.append(len(grams))
        self._questions.setdefault(question, number)
        for gram in grams:
            self._grams.setdefault(gram, []).append(number)

    def _split(self, question: str) -> set[str]:
        words = question.partition(" |")[0].split()
        return {" ".join(words[start : start + self._words]) for start in range(len(words) - self._words + 1)}


def find_leaks(train: Opened, benchmarks: Benchmarks) -> Iterator[Leak]:
    """Yield the leaks of a train set, in the order of its rows. Raises DataError."""
    for batch in train.batches(["id", "question"]):
        yield from filter(None, benchmarks.leaks(batch))


class Leaks(Keep):
    """Refuses to write a set that leaks (`then="refuse"`), or leaves the leaking rows out ("drop"), or writes them ("allow")."""

    name = "leaks"

    def __init__(
        self, against: Sequence[str], *, words: int, share: float, then: Literal["refuse", "drop", "allow"]
    ) -> None:
        self._against = tuple(against)
        self._words = words
        self._share = share
        self._then = then
        self._found: Counter[str] = Counter()
        self._first: list[Leak] = []
        self._options: dict[str, Json] = {"words": words, "share": share, "then": then}

    def options(self) -> Mapping[str, Json]:
        return self._options

    def prepare(self, rows: Rows, scratch: Path) -> None:
        with opened(self._against) as inputs:
            self._benchmarks = Benchmarks(inputs, words=self._words, share=self._share)
            against = [{"name": each.name, "rows": each.rows, "digest": each.digest} for each in inputs]
            self._options["against"] = msgspec.to_builtins(against)
        if self._then == "refuse":
            first: list[Leak] = []
            found = 0
            for origin in rows.inputs:
                for leak in find_leaks(origin, self._benchmarks):
                    found += 1
                    first += [leak] * (len(first) < SHOWN)
            if found:
                pairs = "; ".join(f"{leak.row} ({leak.reason}, {leak.benchmark})" for leak in first)
                raise DataError(
                    f"{counted(found, 'row')} would leak benchmarks, so nothing is written: {pairs}. "
                    "Leave them out with --drop, or write them with --allow"
                )

    def decide(self, part: Part) -> Decision:
        leaks = list(self._benchmarks.leaks(part.batch))
        self._found.update(f"{leak.reason} (kept)" for leak in leaks if leak is not None and self._then == "allow")
        if self._then == "allow":
            return super().decide(part)
        reasons = pa.array([None if leak is None else leak.reason for leak in leaks], pa.string())
        details = pa.array([None if leak is None else leak.benchmark for leak in leaks], pa.string())
        return Decision(part.batch, reasons, details)

    def counts(self) -> Mapping[str, int]:
        return dict(sorted(self._found.items()))
