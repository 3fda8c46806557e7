"""`merge`: several sets or files as one. Rows keep their order and their splits, and each has an id of its own."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lzero.data.locating import stem
from lzero.data.stages import Decision, Keep, Part, Rows
from lzero.data.stages.spilling import Marks, database, fill
from lzero.data.table import TASKS
from lzero.errors import DataError
from lzero.types import Json

_IDS = pa.schema([("row_index", pa.int64()), ("id", pa.string()), ("label", pa.string())])
_TWICE = "SELECT id FROM ids GROUP BY id HAVING count(*) > 1 ORDER BY min(row_index) LIMIT 1"
_RENAME = """
CREATE TABLE later AS
SELECT row_index FROM (SELECT row_index, row_number() OVER (PARTITION BY id ORDER BY row_index) AS number FROM ids) WHERE number > 1;
UPDATE ids SET id = label || '/' || id WHERE row_index IN (SELECT row_index FROM later)
"""
_RENAMED = "SELECT row_index, id FROM ids WHERE row_index IN (SELECT row_index FROM later) ORDER BY row_index"


class Merge(Keep):
    """Joins its inputs. An id that an earlier row has is an error, or gets the name of its input in front (`rename`)."""

    name = "merge"

    def __init__(self, *, rename: bool = False) -> None:
        self._rename = rename
        self._marks: Marks | None = None

    def options(self) -> Mapping[str, Json]:
        return {"rename": self._rename}

    def prepare(self, rows: Rows, scratch: Path) -> None:
        with database(scratch) as connection:
            fill(connection, "ids", _IDS, _ids(rows), select="SELECT * FROM batches")
            if self._rename:
                connection.execute(_RENAME)
                self._marks = Marks.found(connection, _RENAMED, scratch / "renamed.arrow")
            if twice := connection.execute(_TWICE).fetchone():
                found = connection.execute(
                    "SELECT row_index FROM ids WHERE id = ? ORDER BY row_index LIMIT 2", twice
                ).fetchall()
                raise DataError(_two_rows(rows, twice[0], [row_index for (row_index,) in found], renamed=self._rename))

    def decide(self, part: Part) -> Decision:
        if self._marks is None:
            return super().decide(part)
        batch = part.batch
        renamed = self._marks.take(start=part.start, rows=batch.num_rows)["id"]
        at = TASKS.get_field_index("id")
        batch = batch.set_column(at, TASKS.field("id"), pc.coalesce(renamed, batch["id"]))
        return super().decide(Part(batch, part.start, part.origin))

    def counts(self) -> Mapping[str, int]:
        return {} if self._marks is None else {"renamed": self._marks.taken}


def _ids(rows: Rows) -> Iterator[pa.RecordBatch]:
    for part in rows.parts(["id"]):
        label = pa.repeat(stem(Path(part.origin.name)), part.batch.num_rows)
        yield pa.record_batch([part.row_indices, part.batch["id"], label], schema=_IDS)


def _two_rows(rows: Rows, name: str, row_indices: list[int], *, renamed: bool) -> str:
    said = []
    for row_index in row_indices:
        for origin in rows.inputs:
            if row_index < origin.rows:
                said.append(f"row {row_index + 1} of {origin.name}")
                break
            row_index -= origin.rows
    fix = (
        "give each row an id of its own"
        if renamed
        else "give each row an id of its own, or rename the later ones: --rename"
    )
    return f"two rows have the id {name!r:.200}: {' and '.join(said)}; {fix}"
