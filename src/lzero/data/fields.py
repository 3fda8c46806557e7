"""The fields of a task row: their names, the columns that hold them, and errors for missing and misspelt ones."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

from lzero.data.formats import Fields
from lzero.data.rows import Row
from lzero.errors import ConfigError, DataError

QUESTION = ("question",)
ANSWERS = ("answer", "answers")
SAME = (QUESTION, ANSWERS, ("passages", "paragraphs"), ("source", "dataset"), ("licence", "license"))
"""Groups of fields with one meaning."""
FIELDS = (
    *("id", "question", "answer", "answers", "aliases", "passages", "paragraphs", "files", "hops", "difficulty"),
    *("source", "dataset", "split", "ability", "metadata", "licence", "license", "revision"),
)
"""Every field of a task row that is read."""
SHOWN = 12
"""Fields of a row that an error lists."""
_USUAL = {
    "question": ("question", "query", "utterance", "problem", "prompt", "instruction", "input", "ask"),
    "answers": ("answer", "target", "gold", "label", "solution", "expected", "groundtruth", "output", "response"),
}
"""Names of these fields in other data sets, for suggestions only."""


class Columns:
    """The mapping `tasks.columns`: field → column of a file."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        """Raise ConfigError for an unknown field, with the nearest known one."""
        for field in columns:
            if field not in FIELDS:
                (nearest,) = difflib.get_close_matches(field, FIELDS, n=1, cutoff=0.0)
                raise ConfigError(
                    f"tasks.columns: a task has no field {field!r}; did you mean {nearest!r}? "
                    f"There are {', '.join(FIELDS)}"
                )
        self._columns = dict(columns)
        self._missing = {field: column for field, column in columns.items() if column}

    def apply(self, row: Row) -> Row:
        """Return the row with its fields under the names that a task has for them."""
        if not self._columns:
            return row
        used = {column if column in row.fields else column.partition(".")[0] for column in self._columns.values()}
        fields = {name: value for name, value in row.fields.items() if name not in used and name not in self._columns}
        for field, column in self._columns.items():
            value = _value(row.fields, column) if column else None
            if value is not None:
                fields[field] = value
                self._missing.pop(field, None)
        return Row(row.where, fields)

    def sets(self, field: str) -> bool:
        return field in self._columns

    def check_used(self, where: str) -> None:
        """Raise DataError for a column in which no row has a value."""
        for field, column in self._missing.items():
            raise DataError(
                f"{where}: tasks.columns reads `{field}` from the column `{column}`, and no row has a value there"
            )


def check_fields(row: Row, columns: Columns, *, names_files: Callable[[object], bool]) -> list[str]:
    """Return the fields that are spelt nearly like `files` but hold something else, such as the name of a source.

    `names_files` tells whether a value names files. Raises DataError if the question or the answer is missing, and for a field that is
    spelt nearly like one that the row lacks.
    """
    missing = [names for names in (QUESTION, ANSWERS) if not any(name in row.fields for name in names)]
    misspelt = _misspelt(row, columns)
    if missing:
        raise DataError(_missing(row, missing, misspelt))
    others = [name for name, field in misspelt.items() if field == "files" and not names_files(row.fields[name])]
    for name, field in misspelt.items():
        if name in others:
            continue
        raise DataError(
            f"{row.where} has a field `{name}`, which is not read; did you mean `{field}`? Rename it, or map it: "
            f'tasks.columns={{{field} = "{name}"}} (or {field} = "", if it is something else)'
        )
    return others


def _misspelt(row: Row, columns: Columns) -> dict[str, str]:
    """Return unknown field → the known field that it nearly spells and that the row lacks."""
    unknown = [name for name, value in row.fields.items() if value is not None and name not in FIELDS]
    if not unknown:
        return {}
    open_fields = [
        field
        for field in FIELDS
        if not columns.sets(field) and not any(row.fields.get(name) is not None for name in _same(field))
    ]
    return {name: field for name in unknown for field in open_fields[::-1] if is_near(name, field)}


def _same(field: str) -> Sequence[str]:
    return next((names for names in SAME if field in names), (field,))


def _missing(row: Row, missing: Iterable[Sequence[str]], misspelt: Mapping[str, str]) -> str:
    said = ", and ".join(f"no field {' or '.join(f'`{name}`' for name in names)}" for names in missing)
    there = list(row.fields)
    pairs = {}
    for names in missing:
        target = names[-1]
        known = {field: name for name, field in misspelt.items()}
        column = next((known[name] for name in names if name in known), "") or _usual(there, target)
        pairs[target] = column or "…"
    mapping = ", ".join(f'{field} = "{column}"' for field, column in pairs.items())
    return f"{row.where} has {said}. {has(row)} Rename what holds it, or map it: tasks.columns={{{mapping}}}"


def has(row: Row) -> str:
    """Return a sentence that lists the row's fields."""
    there = [f"`{name:.60}`" for name in row.fields]
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    return f"It has {', '.join(there[:SHOWN])}{more}." if there else "It is empty."


def _usual(there: Sequence[str], field: str) -> str:
    """Return the field of a row that other data sets use for `field`; "" if there is none."""
    folded = {name: name.lower().replace("_", "").replace("-", "") for name in there if name not in FIELDS}
    for usual in _USUAL[field]:
        for name, plain in folded.items():
            if plain == usual or plain.rstrip("s") == usual or plain.startswith(usual):
                return name
    return ""


def _value(fields: Fields | Mapping[str, object], column: str) -> object:
    """Return the value of a column: by its whole name, else as a path of names at its dots."""
    if column in fields:
        return fields[column]
    value: object = fields
    for part in column.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def is_near(name: str, field: str) -> bool:
    """Return whether `name` is `field` except for case, one letter, or two letters that changed places: `is_near("anwser", "answer")`."""
    name = name.lower()
    if name == field:
        return True
    if min(len(name), len(field)) < 3 or abs(len(name) - len(field)) > 1:
        return False
    start = next((index for index, (one, other) in enumerate(zip(name, field, strict=False)) if one != other), None)
    if start is None:
        return True
    one, other = name[start:], field[start:]
    return (
        one[1:] == other[1:]
        or one[1:] == other
        or one == other[1:]
        or (one[1::-1] == other[:2] and one[2:] == other[2:])
    )
