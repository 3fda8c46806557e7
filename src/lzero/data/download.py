"""Fetch a public data set from its home, or read a local copy of it, and write it as a set of tasks.

    copies/hotpotqa/hotpot_dev_distractor_v1.json  ──▶  data/hotpotqa/tasks.parquet, dropped.parquet, manifest.json
    hf:hotpotqa/hotpot_qa@1908d6afbbea…            ──▶

Both go through the same code: the home's files are fetched first, and then read as a local copy is. A row that is no task (no answer is
public, an answer is empty, an id comes twice) goes to dropped.parquet with its reason. Rows of another shape are an error: the set has
changed since this was written.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import pyarrow as pa

from lzero.data.fields import ANSWERS, has
from lzero.data.files import TASK_BYTES
from lzero.data.hub import Resolved, fetch, fetch_beside, resolve
from lzero.data.locating import stem
from lzero.data.manifest import Input, Manifest, files_digest, is_set, read_manifest
from lzero.data.new_set import TASKS_AT_ONCE, NewSet
from lzero.data.public_sets import PublicSet
from lzero.data.rows import Row, RowError, read_rows
from lzero.data.shapes import shape_of
from lzero.data.task_rows import Reading, TaskReader
from lzero.errors import ConfigError, DataError
from lzero.paths import is_within
from lzero.types import Task

STAGE = "download"
MAX_KEPT_CHARS = 100_000
"""Characters of a dropped row that is no task that are kept, as JSON."""
ASKED = ("question", "Question", "problem", "utterance")
"""Fields that hold a question, in one set or another."""
_REASONS = {
    "question": "no question",
    "answer": "no gold answer",
    "answers": "no gold answer",
    "id": "no id of its own",
}


@dataclass(frozen=True, kw_only=True)
class Copy:
    """The files of one split, on this machine."""

    split: str
    shown: str
    """As messages and the manifest name it."""
    files: tuple[Path, ...]
    root: Path
    """Directory of the whole copy."""
    resolved: Resolved | None = None
    """The data set on the Hub that it was fetched from."""

    @property
    def revision(self) -> str:
        return self.resolved.revision if self.resolved else ""


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """Result of a download."""

    manifest: Manifest
    was_there: bool
    """Whether an earlier download had made it."""
    missing: tuple[str, ...] = ()
    """Splits that a local copy lacks, each with the names that were looked for."""


def download(
    known: PublicSet, out: Path, *, origin: Path | None = None, home: str = "", revision: str = ""
) -> Downloaded:
    """Write a set to `out`/NAME, unless it is there.

    `origin`: directory of a local copy; None: fetch it from its home, or from another one that `home` names, at a commit or branch
    `revision`. Raises DataError, ConfigError, StoreError.
    """
    directory = out / known.name
    if is_set(directory):
        return Downloaded(manifest=_there(known, directory, revision), was_there=True)
    if origin is not None:
        copies, missing = local_copies(known, origin)
    else:
        copies, missing = hub_copies(known, home or known.home, revision or known.revision), ()
    with NewSet(directory, stage=STAGE) as new:
        writer = _Writer(known, new)
        inputs = [writer.write(copy) for copy in copies]
        if not writer.kept:
            raise DataError(f"{known.name}: no row of {copies[0].shown} is a task: {dict(new.dropped)}")
        options = {
            "set": known.name,
            "home": home or known.home,
            "asked": revision,
            "revision": copies[0].revision,
            "scorer": known.scorer,
        }
        manifest = new.finish(options=options, inputs=inputs)
    return Downloaded(manifest=manifest, was_there=False, missing=missing)


def _there(known: PublicSet, directory: Path, revision: str) -> Manifest:
    """Return the manifest of a set that is there. Raises ConfigError if it is another one than is asked for."""
    manifest = read_manifest(directory)
    made = str(manifest.options.get("revision", ""))
    if manifest.options.get("set") != known.name:
        raise ConfigError(f"{directory} holds a set of `lzero data {manifest.stage}`: name another --out, or remove it")
    if revision and revision != manifest.options.get("asked") and not made.startswith(revision):
        raise ConfigError(f"{directory} holds revision {made or '(none)'}: name another --out, or remove it")
    return manifest


def local_copies(known: PublicSet, origin: Path) -> tuple[list[Copy], tuple[str, ...]]:
    """Return the splits of a local copy below `origin`, and those that are missing. Raises DataError if none is there."""
    root = origin / known.name if (origin / known.name).is_dir() else origin
    copies, missing = [], []
    for split, patterns in known.splits.items():
        matches = (sorted(file for file in root.glob(pattern) if file.is_file()) for pattern in patterns)
        files = next((found for found in matches if found), [])
        if outside := [file for file in files if not is_within(file, root)]:
            raise DataError(f"{outside[0]} is a link to a file elsewhere, which is not followed: copy the file")
        if files:
            copies.append(Copy(split=split, shown=f"{root} ({split})", files=tuple(files), root=root))
        else:
            missing.append(f"{split}: {' or '.join(patterns)}")
    if not copies:
        raise DataError(f"{known.name}: {root} has none of its files ({'; '.join(missing)})")
    return copies, tuple(missing)


def hub_copies(known: PublicSet, home: str, revision: str) -> list[Copy]:
    """Return the splits of a set, fetched from the Hub. Raises DataError."""
    patterns = {split: names[:1] for split, names in known.splits.items()}
    resolved = resolve(home, revision=revision, patterns=patterns)
    copies = []
    for split, urls in resolved.files.items():
        fetched = fetch(resolved, urls)
        file, path = fetched[0]
        root = file.parents[len(PurePosixPath(path).parts) - 1]
        files = tuple(file for file, _ in fetched)
        shown = f"{resolved.shown} ({split})"
        copies.append(Copy(split=split, shown=shown, files=files, root=root, resolved=resolved))
    return copies


class _Writer:
    """Writes the rows of copies to a new set, and the ones that are no tasks to its dropped rows."""

    def __init__(self, known: PublicSet, new: NewSet) -> None:
        self.kept = 0
        self._known = known
        self._new = new
        self._rows: dict[str, str] = {}
        self._waiting: list[tuple[Task, str | None, str | None]] = []

    def write(self, copy: Copy) -> Input:
        """Write a split. Raises DataError if its rows have another shape than the set had."""
        known = self._known
        reading = Reading(split=copy.split, source=known.name, licence=known.licence, revision=copy.revision)
        reader = TaskReader(reading, self._files_of(copy), rows=self._rows)
        rows, left = 0, TASK_BYTES
        for file in copy.files:
            name = f"{known.name}-{copy.split}"
            if len(copy.files) > 1:
                name = f"{known.name}/{(file.parent / stem(file)).relative_to(copy.root).as_posix()}"
            for number, row in read_rows(file, max_bytes=left):
                if not rows:
                    self._check_shape(copy, row)
                rows, left = rows + 1, left - row.size
                self._take(reader, row, name, number)
        self._flush()
        return Input(name=copy.shown, rows=rows, digest=files_digest(copy.files), counts=reader.counts())

    def _check_shape(self, copy: Copy, row: Row) -> None:
        shape = shape_of(row.fields)
        found = shape.NAME if shape else ""
        native = not shape and "question" in row.fields and any(name in row.fields for name in ANSWERS)
        if found != self._known.shape or not (shape or native):
            expected = f"the shape of {self._known.shape}" if self._known.shape else "`question` and `answer`"
            raise DataError(
                f"{self._known.name}: the columns of {copy.shown} have changed: its first row no longer has "
                f"{expected}. {has(row)} Fetch an older commit ({self._known.name}@COMMIT), or read it as hf:… with tasks.columns"
            )

    def _take(self, reader: TaskReader, row: Row, name: str, number: int) -> None:
        try:
            self._waiting.append((reader.task(row, name, number), None, None))
        except RowError as error:
            field = error.field.partition("[")[0]
            reason = _REASONS.get(field, f"bad `{field}`")
            self._waiting.append((_as_it_was(row, f"{name}-{number}", reader.reading), reason, str(error)))
        except DataError as error:  # a field that is missing
            self._waiting.append((_as_it_was(row, f"{name}-{number}", reader.reading), "a missing field", str(error)))
        if len(self._waiting) == TASKS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        tasks, reasons, details = zip(*self._waiting, strict=True) if self._waiting else ((), (), ())
        self.kept += reasons.count(None)
        for batch in self._new.batches(tasks):
            self._new.write(batch, pa.array(reasons, pa.string()), pa.array(details, pa.string()))
        self._waiting = []

    def _files_of(self, copy: Copy) -> Path:
        """Return the directory that the files of tasks are relative to; they are fetched, if the copy is from the Hub."""
        beside = copy.files[0].parent
        if self._known.from_root:
            return copy.root
        if not self._known.attached or copy.resolved is None:
            return beside
        names = [row.fields.get("file_name") for file in copy.files for _, row in read_rows(file, max_bytes=TASK_BYTES)]
        plain = [name for name in names if isinstance(name, str) and name and PurePosixPath(name).name == name]
        directory = self._new.scratch / copy.split
        directory.mkdir()
        within = beside.relative_to(copy.root)
        for name, file in zip(plain, fetch_beside(copy.resolved, within, plain), strict=True):
            shutil.copyfile(file, directory / name)  # the cache holds links, which tasks may not name
        return directory


def _as_it_was(row: Row, identifier: str, reading: Reading) -> Task:
    """Return a row that is no task as one without an answer; its metadata has the whole row as JSON."""
    question = next((value for name in ASKED if isinstance(value := row.fields.get(name), str)), "")
    text = msgspec.json.encode(row.fields).decode()[:MAX_KEPT_CHARS]
    return Task(
        id=identifier,
        question=question,
        answers=(),
        source=reading.source,
        split=reading.split,
        metadata={"row": text},
        licence=reading.licence,
        revision=reading.revision,
    )
