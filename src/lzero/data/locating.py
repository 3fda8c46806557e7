"""Find the files of a task source, and those of the wanted split.

A directory holds files of rows in any format. If their names or folders name splits (`train-00000.parquet`, `validation/…`, `dev.json`),
`tasks.train` reads the files of `train`, and `tasks.eval` those of `validation`, else of `test`. A set on disk has one table; if its rows
have several splits, they are chosen in the same way.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lzero.config import ROW_FILES
from lzero.data.manifest import TASKS_FILE, is_set
from lzero.errors import DataError
from lzero.paths import is_within

TRAIN, EVAL = "train", "eval"
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split → the words for it in names of files."""
WANTED: Mapping[str, tuple[str, ...]] = {TRAIN: ("train",), EVAL: ("validation", "test")}
"""Key of the configuration → the splits that it reads, the first that is there."""
ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "manifest.json")
"""Files about a data set, which hold no rows."""
MAX_FILES = 100_000
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, kw_only=True)
class Located:
    """Files of one source of tasks."""

    shown: str
    """As messages name it."""
    files: tuple[tuple[Path, str], ...]
    """Each file, and the name that begins the ids of its rows."""
    directory: Path
    """The files of tasks are relative to it."""
    split: str = ""
    """Split of the files; empty if their names hold none."""
    choose: str = ""
    """What to choose from the rows of a set by their splits; empty: all."""
    source: str = ""
    licence: str = ""
    revision: str = ""


def locate(path: Path, *, wanted: str = "", key: str = "") -> Located:
    """Return the files of a path. `wanted`: "train", "eval", or a split; empty: all. `key`: the configuration's, for errors.

    Raises DataError for a directory without rows of the wanted split. A file that cannot be read raises only when its rows are read.
    """
    if not path.is_dir():
        return Located(shown=str(path), files=((path, stem(path)),), directory=path.parent)
    if is_set(path):
        table = path / TASKS_FILE
        return Located(shown=str(path), files=((table, path.name),), directory=path, choose=wanted, source=path.name)
    of = f"{key}: " if key else ""
    files = _row_files(path, of)
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(split_of(file.relative_to(path)), []).append(file)
    chosen = choose_split(splits, wanted, where=f"{of}{path}") if wanted else ""
    if chosen or wanted:
        files = splits[chosen]
    named = tuple((file, _name(file.relative_to(path))) for file in files)
    return Located(shown=str(path), files=named, directory=path, split=chosen, source=path.name)


def choose_split(splits: Iterable[str], wanted: str, *, where: str) -> str:
    """Return the one of `splits` that `wanted` means; "" if none has a name. Raises DataError if it is not there."""
    there = sorted(set(splits))
    if there == [""]:
        if wanted not in WANTED and usual(wanted) not in SPLITS:
            raise DataError(
                f"{where} has no split {wanted}: neither its rows nor the names of its files say any. Leave :{wanted} out"
            )
        return ""
    found = [split for split in WANTED.get(wanted, (usual(wanted),)) if split in there]
    if found:
        return found[0]
    named = ", ".join(split or "(without a name)" for split in there)
    words = " or ".join(WANTED.get(wanted, (wanted,)))
    raise DataError(f"{where} has no split {words}; it has {named}. Name one: {where.rpartition(': ')[2]}:{there[-1]}")


def split_of(path: Path) -> str:
    """Return the split that a path names, its last part first: `split_of(Path("test/train-1.jsonl")) == "train"`; "" if it names none."""
    for part in reversed(path.parts):
        for word in _WORD.findall(part.lower()):
            if usual(word) in SPLITS:
                return usual(word)
    return ""


def usual(split: str) -> str:
    """Return the usual word for a split: `usual("dev") == "validation"`; any other word as it is."""
    return next((name for name, words in SPLITS.items() if split.lower() in words), split)


def stem(path: Path) -> str:
    """Return a file's name without its suffix: `stem(Path("data/dev.jsonl.gz")) == "dev"`."""
    return next((path.name.removesuffix(suffix) for suffix in ROW_FILES if path.name.endswith(suffix)), path.name)


def _name(path: Path) -> str:
    return (path.parent / stem(path)).as_posix()


def _row_files(directory: Path, of: str) -> list[Path]:
    """Return the files of rows below a directory, in their order, without hidden ones. Raises DataError."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{of}{error.filename} cannot be read: {error.strerror}")

    found: list[Path] = []
    number = 0
    for parent, directories, names in os.walk(directory, onerror=refuse):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        number += len(names)
        if number > MAX_FILES:
            raise DataError(f"{of}{directory} holds more than {MAX_FILES:,} files: name a smaller directory")
        rows = (name for name in sorted(names) if name.endswith(ROW_FILES) and name not in ABOUT)
        found += [Path(parent, name) for name in rows if not name.startswith(".")]
    if not found:
        raise DataError(f"{of}{directory}: none of its {number:,} files holds rows; they end in {', '.join(ROW_FILES)}")
    for file in found:
        if file.is_symlink() and not is_within(file, directory):
            raise DataError(f"{of}{file} is a link to a file elsewhere, which is not followed: copy the file")
    return sorted(found)
