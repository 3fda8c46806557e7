"""Task files and passage files: JSONL, gzipped JSONL and Parquet, checked row by row.

A row of a **task** file holds

    question                 text, not empty
    answer | answers         a text or number, or a list of them; in a text with `####` (GSM8K), what follows the last one counts
    aliases                  more gold answers
    id                       else "<file>-<line>"
    passages | paragraphs    what `search` sees: a list of {"title": text or null, "text": text}, or of texts
    hops, difficulty         numbers
    source | dataset         else the file's name
    split, ability           texts

and a row of a **passage** file `title` (text or null) and `text`. Further fields are welcome: short texts and numbers
are kept as the task's metadata, the rest is not read. Errors name the file, the line (the row, in Parquet) and the field.
"""

import gzip
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from lzero.errors import DataError
from lzero.types import Passage, Task

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
METADATA_CHARS = 200
"""Longest text of a further field that is kept."""
_NAMED = frozenset({"id", "question", "answer", "answers", "aliases", "passages", "paragraphs", "hops", "difficulty"})
_USED = _NAMED | {"source", "dataset", "split", "ability", "metadata"}


class _Row:
    """One row, and where it stands."""

    def __init__(self, where: str, fields: Mapping[str, object]) -> None:
        self.where = where
        self.fields = fields

    def error(self, field: str, problem: str) -> DataError:
        return DataError(f'{self.where}: field "{field}" {problem}')

    def first(self, *names: str) -> str:
        """The first of `names` that the row has a value for, else the last of them."""
        return next((name for name in names if self.fields.get(name) is not None), names[-1])

    def text(self, field: str, default: str = "") -> str:
        value = self.fields.get(field)
        return default if value is None else self._text(field, value)

    def texts(self, field: str) -> list[str]:
        """A field that holds a text or a list of texts; empty when absent. Numbers count as texts."""
        value = self.fields.get(field)
        if value is None:
            return []
        values = value if isinstance(value, list) else [value]
        return [self._text(field, item) for item in values]

    def number(self, field: str) -> float | None:
        value = self.fields.get(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(field, f"is {_shown(value)}: give a number, or leave it out")
        return value

    def _text(self, field: str, value: object) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(field, f"holds {_shown(value)}: give a text")
        return str(value)


def read_tasks(path: Path, *, split: str = "") -> list[Task]:
    """The tasks of a file, in its order; `split` is what rows without one belong to. Raises DataError."""
    tasks = []
    lines: dict[str, str] = {}
    for number, row in _rows(path):
        task = _task(row, path, number=number, split=split)
        if task.id in lines:
            raise row.error("id", f'is "{task.id}", as in {lines[task.id]}: give each task an id of its own')
        lines[task.id] = row.where
        tasks.append(task)
    if not tasks:
        raise DataError(f"{path}: no tasks in it")
    return tasks


def read_passages(path: Path) -> Iterator[Passage]:
    """The passages of a file, one by one. Raises DataError."""
    for _, row in _rows(path):
        yield _passage(row, "text", row.fields)


def stem(path: Path) -> str:
    """A file's name without its suffix: `stem(Path("data/dev.jsonl.gz")) == "dev"`."""
    return next((path.name.removesuffix(suffix) for suffix in SUFFIXES if path.name.endswith(suffix)), path.name)


def _task(row: _Row, path: Path, *, number: int, split: str) -> Task:
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
        ability=row.text("ability", "qa"),
        source=row.text(row.first("source", "dataset"), stem(path)),
        split=row.text("split", split),
        difficulty=row.number("difficulty"),
        hops=None if hops is None else int(hops),
        passages=_passages(row),
        metadata=_metadata(row),
    )


def _answers(row: _Row) -> tuple[str, ...]:
    golds = [_final(answer) for answer in row.texts("answer")] + row.texts("answers")
    field = row.first("answer", "answers")
    if not golds:
        raise row.error(field, "is empty: give at least one gold answer")
    if any(not gold.strip() for gold in golds):
        raise row.error(field, "holds an empty answer: nothing could match it")
    aliases = [alias for alias in row.texts("aliases") if alias.strip()]
    return tuple(dict.fromkeys([*golds, *aliases]))


def _final(answer: str) -> str:
    """GSM8K writes the solution, then `#### 72`."""
    return answer.rpartition("####")[2].strip() if "####" in answer else answer


def _passages(row: _Row) -> tuple[Passage, ...]:
    field = row.first("passages", "paragraphs")
    value = row.fields.get(field)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise row.error(field, f"is {_shown(value)}: give a list of texts or of objects with title and text")
    return tuple(_passage(row, f"{field}[{index}]", item) for index, item in enumerate(value))


def _passage(row: _Row, field: str, value: object) -> Passage:
    title: object = None
    text = value
    if isinstance(value, Mapping):
        title, text = value.get("title"), value.get("text")
    if not isinstance(text, str) or not text.strip():
        raise row.error(field, f"holds {_shown(text)}: a passage needs a text")
    if title is not None and not isinstance(title, str):
        raise row.error(field, f"has the title {_shown(title)}: give a text or null")
    return Passage(title=title or "", text=text)


def _metadata(row: _Row) -> dict[str, str]:
    given = row.fields.get("metadata")
    extra = {name: value for name, value in row.fields.items() if name not in _USED}
    extra |= given if isinstance(given, dict) else {}
    short = {name: str(value) for name, value in extra.items() if isinstance(value, str | int | float)}
    return {name: value for name, value in short.items() if len(value) <= METADATA_CHARS}


def _shown(value: object) -> str:
    kinds = {type(None): "nothing", bool: "true or false", dict: "an object", list: "a list"}
    return kinds.get(type(value)) or f"{value!r:.60}"


def _rows(path: Path) -> Iterator[tuple[int, _Row]]:
    """Number (from 1) and row of each line that is not blank."""
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: a file of tasks or passages ends in {', '.join(SUFFIXES)}")
    read = _parquet_rows if path.name.endswith(".parquet") else _json_rows
    try:
        for number, fields in read(path):
            yield number, _Row(f"{path}:{number}", fields)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); fetch or compress it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not text:
                continue
            try:
                fields = msgspec.json.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise DataError(f"{path}:{number}: not a line of JSON in UTF-8: {error}") from None
            if not isinstance(fields, dict):
                raise DataError(f"{path}:{number}: holds {_shown(fields)}: each line is one JSON object")
            yield number, fields


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield number, fields
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a whole Parquet file: {error}") from error
