"""Parquet files."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lzero.data.formats import columnar
from lzero.data.formats.base import Found


def read(path: Path) -> Iterator[Found]:
    """Yield the rows. Raises as `columnar.read` does."""
    return columnar.read(path, _batches)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=columnar.BATCH_ROWS, use_threads=False)
