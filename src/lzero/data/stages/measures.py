"""Values of rows by name, for filters, strata and statistics: fields, lengths, and any key of the metadata, such as a rating."""

from collections.abc import Callable, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from lzero.data.stages import Rows
from lzero.data.values import written
from lzero.errors import DataError

Measure = Callable[[pa.RecordBatch], pa.Array]
_NUMBER = r"^[+-]?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]+)?$"
SHOWN = 12
"""Keys of the metadata that an error lists."""

NUMBERS: Final[Mapping[str, Measure]] = {
    "question_chars": lambda batch: pc.cast(pc.utf8_length(batch["question"]), pa.float64()),
    "answer_chars": lambda batch: pc.cast(pc.utf8_length(first_answers(batch)), pa.float64()),
    "answers": lambda batch: pc.cast(pc.list_value_length(batch["answers"]), pa.float64()),
    "passages": lambda batch: pc.cast(pc.list_value_length(batch["passages"]), pa.float64()),
    "files": lambda batch: pc.cast(pc.list_value_length(batch["files"]), pa.float64()),
    "hops": lambda batch: pc.cast(batch["hops"], pa.float64()),
    "difficulty": lambda batch: batch["difficulty"],
}
"""Numbers of every row; null where a row has none."""
TEXTS: Final = ("ability", "source", "split", "licence", "revision")
"""Fields that hold a text of which there are few."""


def first_answers(batch: pa.RecordBatch) -> pa.Array:
    """Return the first answer of each row, "" for a row without one."""
    answers = batch["answers"]
    if pc.min(pc.list_value_length(answers)).as_py() == 0:
        return pa.array([each[0] if each else "" for each in answers.to_pylist()], pa.string())
    return pc.list_element(answers, 0)


def number_column(name: str) -> Measure:
    """Return what reads a number by its name: one of NUMBERS, else a key of the metadata."""
    return NUMBERS.get(name) or (lambda batch: _as_numbers(_metadata(batch, name)))


def text_column(name: str) -> Measure:
    """Return what reads a text by its name: a field of TEXTS, a number as written, else a key of the metadata."""
    if name in TEXTS:
        return lambda batch: batch[name]
    if name in NUMBERS:
        return lambda batch: _as_texts(NUMBERS[name](batch))
    return lambda batch: _metadata(batch, name)


def check_known(name: str, rows: Rows) -> None:
    """Raise DataError if `name` is neither a field nor a key of any row's metadata."""
    if name in NUMBERS or name in TEXTS:
        return
    keys: set[str] = set()
    for part in rows.parts(["metadata"]):
        keys.update(pc.unique(part.batch["metadata"].keys).to_pylist())
        if name in keys:
            return
    others = f", or a key of the metadata: {', '.join(sorted(keys)[:SHOWN])}" if keys else ""
    raise DataError(f"no row has {name!r:.80}. Name one of {', '.join((*NUMBERS, *TEXTS))}{others}")


def _metadata(batch: pa.RecordBatch, key: str) -> pa.Array:
    return pc.map_lookup(batch["metadata"], key, "first")


def _as_texts(values: pa.Array) -> pa.Array:
    return pa.array([None if value is None else written(value) for value in values.to_pylist()], pa.string())


def _as_numbers(values: pa.Array) -> pa.Array:
    is_number = pc.match_substring_regex(values, _NUMBER)
    return pc.cast(pc.if_else(is_number, values, None), pa.float64())
