"""Comma-separated values (.csv) and tab-separated values (.tsv), with the names of the columns in the first line.

A line of a .tsv file is a row. Its values stand in quotes if they begin and end with one, as spreadsheets write them. A value of a .csv
file may have line breaks, in quotes. Every value is a text; an empty one counts as absent.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lzero.data.formats import base
from lzero.data.formats.base import MAX_COLUMNS, BadFile, BadRow, Found, lines, opened

_QUOTED = re.compile('"(?:[^"]|"")*+"')


def read_tsv(path: Path) -> Iterator[Found]:
    """Yield the rows, numbered by their lines. Raises BadRow, BadFile."""
    names: list[str] = []
    with opened(path) as stream:
        for number, line in lines(stream):
            text = _text(number, line).rstrip("\r\n")
            values = [_unquoted(value) for value in text.split("\t", MAX_COLUMNS)]
            if not text.strip():
                continue
            if not names:
                names = _checked(values)
            else:
                yield number, len(line), _fields(number, names, values)


def read_csv(path: Path) -> Iterator[Found]:
    """Yield the rows, numbered from 1 below the names of the columns. Raises BadRow, BadFile."""
    names: list[str] = []
    size = number = commas = 0

    def texts() -> Iterator[str]:
        nonlocal size, commas
        for _, line in lines(stream):
            size += len(line)
            commas += line.count(b",")
            if commas > base.MAX_ROW_VALUES:
                raise base.too_many(number + 1)
            if size > base.MAX_ROW_BYTES:
                raise base.too_large(number + 1)
            yield _text(number + 1, line)

    limit = csv.field_size_limit(base.MAX_ROW_BYTES)
    try:
        with opened(path) as stream:
            for values in csv.reader(texts(), strict=True):
                if values and not names:
                    names = _checked(values)
                elif values:
                    number += 1
                    yield number, size, _fields(number, names, values)
                size = commas = 0
    except csv.Error as error:
        raise BadRow(number + 1, f"is not CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _text(number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(number, f"is not in UTF-8: {error}") from None


def _checked(names: list[str]) -> list[str]:
    """Return the names of the columns. Raises BadFile."""
    if len(names) > MAX_COLUMNS:
        raise BadFile(f"has more than {MAX_COLUMNS:,} columns")
    twice, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise BadFile(f"has two columns named {twice!r:.60}: rename one")
    return names


def _fields(number: int, names: Sequence[str], values: Sequence[str]) -> base.Fields:
    if len(values) != len(names):
        raise BadRow(number, f"has {len(values):,} values, and there are {len(names):,} columns")
    return {name: value or None for name, value in zip(names, values, strict=True)}


def _unquoted(value: str) -> str:
    """Return a value without its quotes, if it begins and ends with one and each inner one is doubled."""
    return value[1:-1].replace('""', '"') if _QUOTED.fullmatch(value) else value
