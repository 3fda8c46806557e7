"""`dedupe --near`: drop rows whose question is nearly that of an earlier row that is kept.

Two questions are compared by the Jaccard similarity of their character 5-grams. MinHash signatures (Broder 1997), cut into bands
(locality-sensitive hashing), find candidates; each is then compared exactly, so no row is dropped by chance. A row is compared with the
first FIRST rows of each bucket that it falls into, so the work grows with the rows and not with their pairs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from lzero.data.normal import normal_column
from lzero.data.stages import Part, Rows
from lzero.data.stages.dedupe import others
from lzero.data.stages.spilling import ROWS_AT_ONCE, DropMarked, Marks, database, fill
from lzero.types import Json

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

GRAM: Final = 5
NUM_PERM: Final = 128
"""Hash functions of a signature."""
FIRST: Final = 4
_TEXTS = pa.schema([("row_index", pa.int64()), ("id", pa.string()), ("question", pa.string()), ("others", pa.string())])
_BANDS = pa.schema([("row_index", pa.int64()), ("band", pa.int32()), ("hashes", pa.binary())])
_MARKS = pa.schema([("row_index", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])
_CANDIDATES = pa.schema([("later", pa.int64()), ("earlier", pa.int64())])
_PAIRS = """
SELECT later.row_index, later.question, earlier.row_index, earlier.id, earlier.question
FROM (SELECT DISTINCT later, earlier FROM candidates) AS found
JOIN texts AS later ON later.row_index = found.later
JOIN texts AS earlier ON earlier.row_index = found.earlier AND earlier.others = later.others
ORDER BY later.row_index, earlier.row_index
"""
_NUMBERS = re.compile(r"\d+|\|.*")


class Near(DropMarked):
    """Keeps the rows that are not near any kept row before them. Questions with other numbers or signs are never near."""

    name = "dedupe"

    def __init__(self, *, threshold: float, by: Sequence[str] = ()) -> None:
        """`threshold`: the similarity, above 0 and at most 1, from which on two questions are near. `by`: as for `Exact`."""
        self._threshold = threshold
        self._by = tuple(by)

    def options(self) -> Mapping[str, Json]:
        return {"near": True, "threshold": self._threshold, "by": list(self._by)}

    def prepare(self, rows: Rows, scratch: Path) -> None:
        with database(scratch) as connection:
            columns = list(dict.fromkeys(["id", "question", "files", *self._by]))
            texts = (_texts(part, self._by) for part in rows.parts(columns))
            fill(connection, "texts", _TEXTS, texts, select="SELECT * FROM batches")
            bands = self._bands(rows)
            fill(
                connection, "bands", _BANDS, bands, select="SELECT row_index, hash(band, hashes) AS bucket FROM batches"
            )
            self._marks = Marks.stored(_MARKS, self._found(connection), scratch / "near.arrow")

    def _bands(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        """Yield the bands of each row's signature."""
        from datasketch import MinHash, MinHashLSH

        lsh = MinHashLSH(threshold=self._threshold, num_perm=NUM_PERM, weights=(0.1, 0.9))
        for part in rows.parts(["question"]):
            grams = (
                [gram.encode() for gram in _grams(text)] for text in normal_column(part.batch["question"]).to_pylist()
            )
            columns: tuple[list[int], list[int], list[bytes]] = ([], [], [])
            for row_index, signature in enumerate(MinHash.generator(grams, num_perm=NUM_PERM), part.start):
                hashes = signature.hashvalues.reshape(-1)
                for band in range(lsh.b):
                    columns[0].append(row_index)
                    columns[1].append(band)
                    columns[2].append(hashes[band * lsh.r : (band + 1) * lsh.r].tobytes())
            yield pa.record_batch(list(map(pa.array, columns, _BANDS.types)), schema=_BANDS)

    def _found(self, connection: "DuckDBPyConnection") -> Iterator[pa.RecordBatch]:
        """Yield the rows that are near an earlier row which is kept, in their order."""
        dropped: set[int] = set()
        marks: list[dict[str, object]] = []
        fill(connection, "candidates", _CANDIDATES, _candidates(connection.cursor()), select="SELECT * FROM batches")
        result = connection.execute(_PAIRS)
        while pairs := result.fetchmany(ROWS_AT_ONCE):
            for later, question, earlier, name, other in pairs:
                if later in dropped or earlier in dropped:
                    continue
                if question == other or _similarity(question, other) >= self._threshold:
                    dropped.add(later)
                    reason = "same question" if question == other else "nearly the same question"
                    marks.append({"row_index": later, "reason": reason, "detail": name})
            yield pa.RecordBatch.from_pylist(marks, schema=_MARKS)
            marks.clear()


def _candidates(connection: "DuckDBPyConnection") -> Iterator[pa.RecordBatch]:
    """Yield each row of a bucket with the first FIRST rows before it; some pairs come twice.

    DuckDB spills what it sorts. It does not spill lists, and not all that a window needs.
    """
    buckets, rows = np.empty(0, np.uint64), np.empty(0, np.int64)
    in_order = connection.sql("SELECT bucket, row_index FROM bands ORDER BY bucket, row_index")
    for batch in in_order.to_arrow_reader(ROWS_AT_ONCE):
        buckets = np.concatenate((buckets, batch["bucket"].to_numpy()))
        rows = np.concatenate((rows, batch["row_index"].to_numpy()))
        is_first = np.concatenate(([True], buckets[1:] != buckets[:-1]))
        firsts = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]  # where the bucket of each row begins
        places = np.arange(len(rows)) - firsts
        pairs = [(rows[places > nth], rows[firsts[places > nth] + nth]) for nth in range(FIRST)]
        yield pa.record_batch([np.concatenate(side) for side in zip(*pairs, strict=True)], schema=_CANDIDATES)
        kept = slice(firsts[-1], firsts[-1] + FIRST)  # the last bucket may go on
        buckets, rows = buckets[kept], rows[kept]


def _texts(part: Part, by: Sequence[str]) -> pa.RecordBatch:
    batch = part.batch
    columns = [part.row_indices, batch["id"], normal_column(batch["question"]), others(batch, by)]
    return pa.record_batch(columns, schema=_TEXTS)


def _grams(text: str) -> set[str]:
    text = f" {text} "
    return {text[start : start + GRAM] for start in range(max(1, len(text) - GRAM + 1))}


def _similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of two normal forms, 0 if their numbers or signs differ."""
    if _NUMBERS.findall(one) != _NUMBERS.findall(other):
        return 0.0
    first, second = _grams(one), _grams(other)
    return len(first & second) / len(first | second)
