"""`dedupe`: drop rows whose question an earlier row asks, except for case, accents and punctuation."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from lzero.data.normal import normal_column
from lzero.data.stages import Rows
from lzero.data.stages.measures import first_answers
from lzero.data.stages.spilling import DropMarked, Marks, database, fill
from lzero.types import Json

BY: Final = ("answers", "passages", "ability", "source", "split")
"""Columns that may have to be equal, too."""
_KEYS = pa.schema([("row_index", pa.int64()), ("id", pa.string()), ("asked", pa.string()), ("answer", pa.string())])
_HASHED = "SELECT row_index, id, md5_number(asked) AS asked, hash(answer) AS answer FROM batches"
_LATER = """
SELECT row_index, CASE WHEN answer = first_answer THEN 'same question' ELSE 'same question, other answer' END AS reason, first_id AS detail
FROM (
    SELECT row_index, answer, first_value(id) OVER same AS first_id, first_value(answer) OVER same AS first_answer,
        row_number() OVER same AS number
    FROM keys
    WHERE asked IN (SELECT asked FROM keys GROUP BY asked HAVING count(*) > 1)
    WINDOW same AS (PARTITION BY asked ORDER BY row_index)
)
WHERE number > 1 ORDER BY row_index
"""


class Exact(DropMarked):
    """Keeps the first row of each question, compared in its normal form. Rows with other files are other rows."""

    name = "dedupe"

    def __init__(self, *, by: Sequence[str] = ()) -> None:
        """`by`: further columns, of BY, in which duplicates are equal."""
        self._by = tuple(by)

    def options(self) -> Mapping[str, Json]:
        return {"near": False, "by": list(self._by)}

    def prepare(self, rows: Rows, scratch: Path) -> None:
        with database(scratch) as connection:
            fill(connection, "keys", _KEYS, self._keys(rows), select=_HASHED)
            self._marks = Marks.found(connection, _LATER, scratch / "later.arrow")

    def _keys(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        columns = list(dict.fromkeys(["id", "question", "answers", "files", *self._by]))
        for part in rows.parts(columns):
            batch = part.batch
            asked = pc.binary_join_element_wise(normal_column(batch["question"]), others(batch, self._by), "\x1e")
            yield pa.record_batch(
                [part.row_indices, batch["id"], asked, normal_column(first_answers(batch))], schema=_KEYS
            )


def others(batch: pa.RecordBatch, by: Sequence[str]) -> pa.Array:
    """Return the texts in which duplicates are equal besides the question: the files, and the columns `by`."""
    return pc.binary_join_element_wise(*(_texts(batch[name]) for name in ("files", *by)), "\x1e")


def _texts(column: pa.Array) -> pa.Array:
    """Return a column as texts."""
    if not pa.types.is_list(column.type):
        return column
    if pa.types.is_struct(column.type.value_type):
        column = pa.ListArray.from_arrays(column.offsets, column.values.field("text"))
    return pc.binary_join(column, "\x1f")
