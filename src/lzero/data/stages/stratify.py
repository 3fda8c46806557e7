"""`stratify`: a sample with as many rows of each stratum as there are, up to an equal share, or in proportion to the strata."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lzero.data.stages import Rows
from lzero.data.stages.measures import check_known, text_column
from lzero.data.stages.spilling import DropMarked, Marks, database, fill
from lzero.errors import DataError
from lzero.seeds import derive_seed
from lzero.types import Json

MAX_STRATA = 1_000
NONE = "none"
"""Value of a row that has none."""
_ROWS = pa.schema([("row_index", pa.int64()), ("id", pa.string()), ("stratum", pa.string())])
_QUOTAS = pa.schema([("stratum", pa.string()), ("quota", pa.int64())])
_LEFT_OUT = """
SELECT row_index, 'stratum is full' AS reason, stratum AS detail
FROM (
    SELECT row_index, stratum, quota, row_number() OVER (PARTITION BY stratum ORDER BY draw, row_index) AS number
    FROM rows JOIN quotas USING (stratum)
)
WHERE number > quota ORDER BY row_index
"""


class Stratify(DropMarked):
    """Keeps `size` rows, drawn by `seed` and their ids, and their order."""

    name = "stratify"

    def __init__(self, *, by: Sequence[str], size: int, seed: int, proportional: bool = False) -> None:
        """`by`: names of values (`lzero.data.stages.measures`); a stratum is the rows that agree in all of them."""
        self._by = tuple(by)
        self._size = size
        self._seed = seed
        self._proportional = proportional
        self._quotas: dict[str, int] = {}

    def options(self) -> Mapping[str, Json]:
        return {"by": list(self._by), "size": self._size, "seed": self._seed, "proportional": self._proportional}

    def prepare(self, rows: Rows, scratch: Path) -> None:
        for name in self._by:
            check_known(name, rows)
        draw = f"SELECT row_index, stratum, md5_number('{derive_seed(self._seed, 'stratify')}/' || id) AS draw FROM batches"  # noqa: S608
        with database(scratch) as connection:
            fill(connection, "rows", _ROWS, self._strata(rows), select=draw)
            sizes = dict(
                connection.execute("SELECT stratum, count(*) FROM rows GROUP BY stratum ORDER BY stratum").fetchmany(
                    MAX_STRATA + 1
                )
            )
            if len(sizes) > MAX_STRATA:
                raise DataError(
                    f"--by {' --by '.join(self._by)} makes more than {MAX_STRATA:,} strata: name values of which there are few"
                )
            self._quotas = quotas(sizes, self._size, proportional=self._proportional)
            batch = pa.record_batch([list(self._quotas), list(self._quotas.values())], schema=_QUOTAS)
            fill(connection, "quotas", _QUOTAS, [batch], select="SELECT * FROM batches")
            self._marks = Marks.found(connection, _LEFT_OUT, scratch / "left-out.arrow")

    def counts(self) -> Mapping[str, int]:
        return self._quotas

    def _strata(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        for part in rows.parts():
            batch = part.batch
            values = [
                pc.binary_join_element_wise(f"{name}=", pc.fill_null(text_column(name)(batch), NONE), "")
                for name in self._by
            ]
            yield pa.record_batch(
                [part.row_indices, batch["id"], pc.binary_join_element_wise(*values, ", ")], schema=_ROWS
            )


def quotas(sizes: Mapping[str, int], size: int, *, proportional: bool) -> dict[str, int]:
    """Return stratum → rows to draw, `size` in all where there are so many: equal shares, or in proportion (largest remainder)."""
    total = sum(sizes.values())
    size = min(size, total)
    if not proportional:
        return _equal(sizes, size)
    exact = {name: Fraction(own * size, max(total, 1)) for name, own in sizes.items()}
    found = {name: int(share) for name, share in exact.items()}
    by_rest = sorted(exact, key=lambda name: (found[name] - exact[name], name))
    for name in by_rest[: size - sum(found.values())]:
        found[name] += 1
    return {name: found[name] for name in sizes}


def _equal(sizes: Mapping[str, int], size: int) -> dict[str, int]:
    """Return equal shares; what a small stratum cannot give, the others do."""
    found = {}
    smallest_first = sorted(sizes, key=lambda name: (sizes[name], name))
    for number, name in enumerate(smallest_first):
        found[name] = min(sizes[name], size // (len(sizes) - number))
        size -= found[name]
    return {name: found[name] for name in sizes}
