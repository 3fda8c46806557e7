"""Parts of rows that several shapes have, and the error about a part of another form."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from lzero.data.formats import Fields
from lzero.data.values import shown

SUPPORTING_TITLES = "supporting_titles"
"""Key of a task's metadata with the titles of its gold passages, a JSON list."""
MAX_TITLES = 64
"""Maximum titles of gold passages that a task's metadata lists."""


class BadShape(Exception):
    """A field of a row that has not the form that its shape demands: the field, and the problem."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


@dataclass(frozen=True)
class Inline:
    """A file that stands in the row itself. `Inline("table.csv", "port,boats\\r\\nNord,12\\r\\n")`."""

    name: str
    text: str


def others(fields: Fields, *used: str) -> Fields:
    """Return the fields of a row except for `used`, which a shape has converted or knows to be of no use."""
    return {name: value for name, value in fields.items() if name not in used}


def items(field: str, value: object) -> Sequence[object]:
    """Return a list; a text is decoded as JSON first. Raises BadShape for another value."""
    value = from_json(field, value)
    if not isinstance(value, list):
        raise BadShape(field, f"holds {shown(value)}: give a list")
    return value


def table(field: str, value: object) -> Mapping[str, object]:
    """Return an object. Raises BadShape for another value."""
    if not isinstance(value, Mapping):
        raise BadShape(field, f"holds {shown(value)}: give an object")
    return value


def from_json(field: str, value: object) -> object:
    """Return the value that a text holds as JSON; any other value as it is. Raises BadShape."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadShape(field, f"is a text that is not JSON: {error}") from None


def columns_of(field: str, value: object, first: str, *second: str) -> list[tuple[object, object]]:
    """Return pairs, written as a list of pairs or as two columns: `{"title": […], "sent_id": […]}`. Raises BadShape."""
    value = from_json(field, value)
    if isinstance(value, Mapping):
        other = next((name for name in second if name in value), second[0])
        one, two = items(f"{field}.{first}", value.get(first)), items(f"{field}.{other}", value.get(other))
        if len(one) != len(two):
            raise BadShape(field, f"has {len(one):,} values of `{first}` and {len(two):,} of `{other}`")
        return list(zip(one, two, strict=True))
    pairs = items(field, value)
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadShape(f"{field}[{index}]", f"holds {shown(pair)}: give a pair")
    return [(pair[0], pair[1]) for pair in pairs if isinstance(pair, list)]


def titles(found: Collection[object]) -> Fields:
    """Return the titles of gold passages, each once, as the metadata SUPPORTING_TITLES."""
    texts = [title for title in dict.fromkeys(map(str, found)) if title][:MAX_TITLES]
    return {SUPPORTING_TITLES: msgspec.json.encode(texts).decode()} if texts else {}


def level(value: object) -> float | None:
    """Return the number at the end of a level ("Level 5", 3, "3"); None if there is none, or it is too large for a float."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) <= sys.float_info.max else None
    last = value.split()[-1:] if isinstance(value, str) else []
    return float(last[0]) if last and last[0].isascii() and last[0].isdecimal() and len(last[0]) < 9 else None
