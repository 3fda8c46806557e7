"""Formats of files that hold rows, one module each. `READERS` finds the module by the end of a file's name."""

from collections.abc import Callable, Iterator
from pathlib import Path

from lzero.config import ROW_FILES
from lzero.data.formats import arrow, json_array, json_lines, parquet, separated
from lzero.data.formats.base import BadFile, BadRow, Fields, Found

READERS: dict[str, tuple[str, Callable[[Path], Iterator[Found]]]] = {
    ".jsonl": ("line", json_lines.read),
    ".json": ("row", json_array.read),
    ".parquet": ("row", parquet.read),
    ".arrow": ("row", arrow.read),
    ".csv": ("row", separated.read_csv),
    ".tsv": ("line", separated.read_tsv),
}
"""End of the name, without ".gz" → what a row is called in messages, and the reader."""
PACKED = ".gz"

__all__ = ["READERS", "BadFile", "BadRow", "Fields", "Found", "reader_of"]

assert {ending.removesuffix(PACKED) for ending in ROW_FILES} == READERS.keys()


def reader_of(path: Path) -> tuple[str, Callable[[Path], Iterator[Found]]] | None:
    """Return what a row of a file is called, and the reader of its format; None if no format has a name that ends so."""
    ending = next((ending for ending in ROW_FILES if path.name.endswith(ending)), None)
    return READERS[ending.removesuffix(PACKED)] if ending else None
