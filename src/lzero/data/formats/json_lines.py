"""JSON Lines: each line is one JSON object."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from lzero.data.formats import base
from lzero.data.formats.base import BadRow, Found, lines, opened
from lzero.data.values import shown
from lzero.json_bounds import has_too_many


def read(path: Path) -> Iterator[Found]:
    """Yield the rows; blank lines are counted, and skipped. Raises BadRow."""
    with opened(path) as stream:
        for number, line in lines(stream):
            text = line.strip()
            if text:
                yield number, len(line), decode(number, text, "each line is one JSON object")


def decode(number: int, text: bytes, rule: str) -> dict[str, object]:
    """Return the object that a text holds. Raises BadRow; `rule` ends its message about another value."""
    if has_too_many(text, base.MAX_ROW_VALUES):
        raise base.too_many(number)
    try:
        fields = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRow(number, f"is not JSON in UTF-8: {error}") from None
    if not isinstance(fields, dict):
        raise BadRow(number, f"holds {shown(fields)}: {rule}")
    return fields
