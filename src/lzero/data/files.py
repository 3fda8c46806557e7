"""Read task files and passage files (JSONL, gzipped JSONL and Parquet), and check them row by row.

A row of a **task** file holds

    question                 text, not empty
    answer | answers         a text or number, or a list of them; of a text with `####` (GSM8K), only the part after the last one
    aliases                  more gold answers
    id                       default: "<file>-<line>"
    passages | paragraphs    the passages that `search` returns: a list of {"title": text or null, "text": text}, or of texts
    files                    a path, or a list of paths, relative to the task file's directory: files in the session's workspace
    hops, difficulty         numbers
    source | dataset         default: the file's name
    ability                  qa, math, data, search or files; default: files if the row has some, otherwise qa
    split                    text
    licence | license        the data set's licence, text
    revision                 the data set's version, text

and a row of a **passage** file holds `title` (text or null) and `text`. `tasks.columns` maps columns with other names. A field name that
nearly spells one of these is an error. Short texts and numbers in other fields become the task's metadata; `TaskFile.unread` counts the
rest. Errors name the file, the line (in Parquet: the row) and the field.
"""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lzero.config import ROW_FILES
from lzero.data.attachments import Attachments, FileLimits
from lzero.data.fields import ANSWERS, FIELDS, Columns, check_fields, has
from lzero.data.rows import Row, read_rows
from lzero.data.values import shown, written
from lzero.errors import DataError
from lzero.types import ABILITIES, Passage, Task

METADATA_CHARS = 200
"""Characters of the longest text in another field that is kept."""
TASK_BYTES = 4 << 30
"""Maximum size of a task file, unpacked: tasks are kept in memory."""
PASSAGE_BYTES = 256 << 30
"""Maximum size of a passage file, unpacked: its index is kept on disk."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options for reading a task file."""

    key: str = ""
    """Key of the configuration that names the file ("tasks.eval"), for errors."""
    split: str = ""
    """Split of the rows that name none."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """`tasks.columns`."""
    limits: FileLimits = field(default_factory=FileLimits)


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """Tasks of a file, in its order."""

    tasks: tuple[Task, ...]
    unread: Mapping[str, int]
    """Field → number of rows in which it is neither a field of a task nor short enough for its metadata."""


def read_tasks(path: Path, reading: Reading | None = None) -> TaskFile:
    """Read a task file. Raises DataError, and ConfigError for `tasks.columns` with an unknown field."""
    reading = reading or Reading()
    tasks = []
    lines: dict[str, str] = {}
    unread: Counter[str] = Counter()
    columns = Columns(reading.columns)
    attachments = Attachments(path.parent, reading.limits)
    for number, raw in read_rows(path, key=reading.key, max_bytes=TASK_BYTES):
        row = columns.apply(raw)
        others = check_fields(row, columns, names_files=attachments.are_meant)
        task = _task(row, path, number=number, split=reading.split, attachments=attachments)
        if task.id in lines:
            raise row.error("id", f'is "{task.id}", as in {lines[task.id]}: give each task an id of its own')
        lines[task.id] = row.where
        tasks.append(task)
        unread.update(name for name in _further(row) if name not in task.metadata or name in others)
    where = f"{reading.key}: {path}" if reading.key else str(path)
    if not tasks:
        raise DataError(f"{where}: no tasks in it")
    columns.check_used(where)
    return TaskFile(tasks=tuple(tasks), unread=dict(unread))


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield the passages of a file. Raises DataError."""
    for _, row in read_rows(path, max_bytes=PASSAGE_BYTES):
        if "text" not in row.fields:
            raise DataError(f"{row.where} has no field `text`. {has(row)} Rename the one that holds a passage")
        yield _passage(row, "text", row.fields)


def stem(path: Path) -> str:
    """Return a file's name without its suffix: `stem(Path("data/dev.jsonl.gz")) == "dev"`."""
    return next((path.name.removesuffix(suffix) for suffix in ROW_FILES if path.name.endswith(suffix)), path.name)


def _task(row: Row, path: Path, *, number: int, split: str, attachments: Attachments) -> Task:
    question = row.text("question")
    if not question.strip():
        raise row.error("question", "is empty: give the question as a text")
    hops = row.number("hops")
    if hops is not None and (hops != int(hops) or hops < 1):
        raise row.error("hops", f"is {hops}: give a whole number from 1, or leave it out")
    identifier = row.text("id", f"{stem(path)}-{number}")
    if not identifier.strip():
        raise row.error("id", "is empty: give a text, or leave it out")
    return Task(
        id=identifier,
        question=question,
        answers=_answers(row),
        ability=_ability(row),
        source=row.text(row.first("source", "dataset"), stem(path)),
        split=row.text("split", split),
        difficulty=row.number("difficulty"),
        hops=None if hops is None else int(hops),
        passages=_passages(row),
        files=attachments.paths(row),
        metadata=_metadata(row),
        licence=row.text(row.first("licence", "license")),
        revision=row.text("revision"),
    )


def _answers(row: Row) -> tuple[str, ...]:
    field = row.first(*(name for name in ANSWERS if name in row.fields))
    golds = [_final(answer) for answer in row.texts("answer")] + row.texts("answers")
    if not golds:
        raise row.error(field, "is empty: give at least one gold answer")
    if any(not gold.strip() for gold in golds):
        raise row.error(field, "holds an empty answer: nothing could match it")
    aliases = [alias for alias in row.texts("aliases") if alias.strip()]
    return tuple(dict.fromkeys([*golds, *aliases]))


def _final(answer: str) -> str:
    """Return the part of an answer after the last `####`. GSM8K writes the solution, then `#### 72`."""
    return answer.rpartition("####")[2].strip() if "####" in answer else answer


def _passages(row: Row) -> tuple[Passage, ...]:
    field = row.first("passages", "paragraphs")
    value = row.fields.get(field)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise row.error(field, f"is {shown(value)}: give a list of texts or of objects with title and text")
    return tuple(_passage(row, f"{field}[{index}]", item) for index, item in enumerate(value))


def _passage(row: Row, field: str, value: object) -> Passage:
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
        return "files" if row.texts("files") else "qa"
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
    kept = {name: value for name, value in _further(row).items() if isinstance(value, str | int | float)}
    short = {name: value if isinstance(value, str) else written(value) for name, value in kept.items()}
    return {name: value for name, value in short.items() if len(value) <= METADATA_CHARS}


def _further(row: Row) -> dict[str, object]:
    """Return the other fields of a row, and those of an object in `metadata`."""
    further = {name: value for name, value in row.fields.items() if name not in FIELDS}
    given = row.fields.get("metadata")
    further |= given if isinstance(given, dict) else {"metadata": given}
    return {name: value for name, value in further.items() if value is not None}
