"""Turn rows into tasks, and check every field.

A row names the fields of a task (see `lzero.data.files`), or columns that `tasks.columns` maps to them, or it has a shape of
`lzero.data.shapes`, from which it is converted.
"""

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lzero.data.attachments import Attachments, FileLimits
from lzero.data.fields import ANSWERS, FIELDS, Columns, check_fields
from lzero.data.rows import Row
from lzero.data.shapes import BadShape, Shape, shape_of
from lzero.data.shapes.parts import SUPPORTING_TITLES, titles
from lzero.data.values import LARGEST_WHOLE, shown, written
from lzero.types import ABILITIES, Passage, Task

METADATA_CHARS = 200
"""Characters of the longest text in another field that is kept."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options for reading tasks."""

    key: str = ""
    """Key of the configuration that names them ("tasks.eval"), for errors."""
    split: str = ""
    """Split of the rows that name none."""
    source: str = ""
    """Source of the rows that name none; empty: the name of their file."""
    licence: str = ""
    revision: str = ""
    """Licence and revision of the rows that name none."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """`tasks.columns`."""
    limits: FileLimits = field(default_factory=FileLimits)


class TaskReader:
    """Turns the rows of one or more files into tasks, and counts what it converts and leaves out."""

    def __init__(self, reading: Reading, directory: Path, *, rows: dict[str, str] | None = None) -> None:
        """`directory`: the files of tasks are relative to it. `rows`: ids that other readers have met, each with its row, to share.

        Raises ConfigError for `tasks.columns` with an unknown field.
        """
        self.unread: Counter[str] = Counter()
        """Field → rows in which it is neither a field of a task nor short enough for its metadata."""
        self.shapes: Counter[str] = Counter()
        """Name of a shape → rows that had it."""
        self.columns = Columns(reading.columns)
        self.reading = reading
        self._attachments = Attachments(directory, reading.limits)
        self._rows = {} if rows is None else rows

    def task(self, raw: Row, name: str, number: int) -> Task:
        """Return the task of a row; `name` and `number` make its id if it has none. Raises DataError."""
        row = self.columns.apply(raw)
        shape = shape_of(row.fields)
        if shape is not None:
            row = self._converted(row, shape)
        others = check_fields(row, self.columns, names_files=self._attachments.are_meant)
        task = self._task(row, name, number)
        if task.id in self._rows:
            raise row.error("id", f'is "{task.id}", as in {self._rows[task.id]}: give each task an id of its own')
        self._rows[task.id] = raw.where
        self.unread.update(field for field in _further(row) if field not in task.metadata or field in others)
        if shape is not None:
            self.shapes[shape.NAME] += 1
        return task

    def counts(self) -> dict[str, int]:
        """Return as a manifest counts them: the rows of each shape that were converted, and the fields that were not read."""
        found = {f"rows of {name}'s shape": number for name, number in sorted(self.shapes.items())}
        return found | {
            f"rows whose field {name:.60} is not read": number for name, number in sorted(self.unread.items())
        }

    def _converted(self, row: Row, shape: Shape) -> Row:
        where = f"{row.where} (of {shape.NAME}'s shape)"
        mapped = {name: value for name, value in row.fields.items() if self.columns.sets(name)}
        try:
            converted = shape.convert(row.fields)
            return Row(
                where, {name: value for name, value in converted.items() if not self.columns.sets(name)} | mapped
            )
        except BadShape as error:
            raise Row(where, {}).error(error.field, str(error)) from None

    def _task(self, row: Row, name: str, number: int) -> Task:
        question = row.text("question")
        if not question.strip():
            raise row.error("question", "is empty: give the question as a text")
        hops = row.number("hops")
        if hops is not None and not (1 <= hops < LARGEST_WHOLE and hops == int(hops)):
            raise row.error("hops", f"is {hops:g}: give a whole number from 1, or leave it out")
        identifier = row.text("id", f"{name}-{number}")
        if not identifier.strip():
            raise row.error("id", "is empty: give a text, or leave it out")
        return Task(
            id=identifier,
            question=question,
            answers=_answers(row),
            ability=_ability(row),
            source=row.text(row.first("source", "dataset"), self.reading.source or name),
            split=row.text("split", self.reading.split),
            difficulty=row.number("difficulty"),
            hops=None if hops is None else int(hops),
            passages=_passages(row),
            files=self._attachments.paths(row),
            metadata=_metadata(row),
            licence=row.text(row.first("licence", "license"), self.reading.licence),
            revision=row.text("revision", self.reading.revision),
        )


def _answers(row: Row) -> tuple[str, ...]:
    field = row.first(*(name for name in ANSWERS if name in row.fields))
    golds = row.texts("answer") + row.texts("answers")
    if not golds:
        raise row.error(field, "is empty: give at least one gold answer")
    if any(not gold.strip() for gold in golds):
        raise row.error(field, "holds an empty answer: nothing could match it")
    aliases = [alias for alias in row.texts("aliases") if alias.strip()]
    return tuple(dict.fromkeys([*golds, *aliases]))


def _passages(row: Row) -> tuple[Passage, ...]:
    field = row.first("passages", "paragraphs")
    value = row.fields.get(field)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise row.error(field, f"is {shown(value)}: give a list of texts or of objects with title and text")
    return tuple(read_passage(row, f"{field}[{index}]", item) for index, item in enumerate(value))


def read_passage(row: Row, field: str, value: object) -> Passage:
    """Return a passage from an object with title and text, or a text; `field` names it in messages. Raises DataError."""
    title: object = None
    text = value
    if isinstance(value, Mapping):
        title, text = value.get("title"), value.get("text")
    if not isinstance(text, str) or not text.strip():
        raise row.error(field, f"holds {shown(text)}: a passage needs a text")
    if title is not None and not isinstance(title, str):
        raise row.error(field, f"has the title {shown(title)}: give a text or null")
    return Passage(title=title or "", text=text)


def _ability(row: Row) -> str:
    ability = row.text("ability").strip().lower()
    if not ability:
        return "files" if row.fields.get("files") else "qa"
    if ability not in ABILITIES:
        nearest = difflib.get_close_matches(ability, ABILITIES, n=1)
        asked = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise row.error(
            "ability",
            f"is {ability!r:.60}: {asked}There are {', '.join(ABILITIES)}; "
            'leave it out, or do not read it: tasks.columns={ability = ""}',
        )
    return ability


def _metadata(row: Row) -> dict[str, str]:
    """Return the short texts and numbers in other fields, and the titles of gold passages, however long their list is."""
    further = _further(row)
    gold = further.get(SUPPORTING_TITLES)
    if isinstance(gold, list):
        further |= titles(gold)
    kept = {name: value for name, value in further.items() if isinstance(value, str | int | float)}
    short = {name: value if isinstance(value, str) else written(value) for name, value in kept.items()}
    return {name: value for name, value in short.items() if len(value) <= METADATA_CHARS or name == SUPPORTING_TITLES}


def _further(row: Row) -> dict[str, object]:
    """Return the other fields of a row, and those of an object in `metadata`."""
    further = {name: value for name, value in row.fields.items() if name not in FIELDS}
    given = row.fields.get("metadata")
    further |= given if isinstance(given, dict) else {"metadata": given}
    return {name: value for name, value in further.items() if value is not None}
