"""`manifest.json` of a set on disk: the data stage that made it, what went in and came out, and the stages before it.

A set is a directory that a data stage wrote:

    tasks.parquet      the rows that were kept
    dropped.parquet    the rows that were dropped, whole, each with its reason
    manifest.json      this account of both
    files/             files that belong to tasks
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from lzero.errors import DataError
from lzero.paths import file_problem, is_within, read_bounded
from lzero.store.writing import write_whole
from lzero.types import Json

TASKS_FILE: Final = "tasks.parquet"
DROPPED_FILE: Final = "dropped.parquet"
MANIFEST_FILE: Final = "manifest.json"
FILES: Final = "files"
MAX_BYTES: Final = 64 << 20
"""Bytes of the largest manifest."""
MAX_VALUES: Final = 1_000_000
"""The most values of a manifest."""


class Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A set or file that a data stage read. `Input(name="raw/nq", rows=2655, digest="9f…")`."""

    name: str
    """As the user named it."""
    rows: int
    digest: str
    """Hash of its files' bytes."""
    counts: dict[str, int] = {}
    """What the conversion of a file counted: rows of other shapes, fields that were not read."""
    made: "Manifest | None" = None
    """How it was made, if it is a set."""


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a data stage did. `rows_in == rows_out + sum(dropped.values())`."""

    stage: str
    options: dict[str, Json]
    inputs: tuple[Input, ...]
    rows_in: int
    rows_out: int
    dropped: dict[str, int]
    """Reason → rows."""
    counts: dict[str, int] = {}
    """What else the stage counted."""
    digest: str
    """Hash of the bytes of tasks.parquet."""
    version: int = 1


def is_set(path: Path) -> bool:
    """Return whether `path` is a directory that a data stage wrote.

    Raises DataError if a file of it is a link to a file elsewhere, because the set may be a stranger's.
    """
    if not (path / MANIFEST_FILE).is_file():
        return False
    for file in (path / name for name in (MANIFEST_FILE, TASKS_FILE, DROPPED_FILE)):
        if file.is_symlink() and not is_within(file, path):
            raise DataError(f"{file} is a link to a file elsewhere, which is not followed: copy the file")
    return True


def read_manifest(directory: Path) -> Manifest:
    """Read a set's manifest. Raises DataError, also if tasks.parquet is not the file that it describes."""
    is_set(directory)  # looks at its links
    file, table = directory / MANIFEST_FILE, directory / TASKS_FILE
    try:
        manifest = msgspec.json.decode(read_bounded(file, max_bytes=MAX_BYTES, max_values=MAX_VALUES), type=Manifest)
        if problem := file_problem(table):
            raise DataError(f"{table} cannot be read: {problem}. Make the set again")
        digest = file_digest(table)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{file} is no manifest: {error}. Make the set again") from None
    except OSError as error:
        raise DataError(
            f"{error.filename or file} cannot be read: {error.strerror or error}. Make the set again"
        ) from error
    if digest != manifest.digest:
        raise DataError(f"{table} is not the file that its manifest describes, or was cut. Make the set again")
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write a set's manifest. Raises StoreError."""
    write_whole(directory / MANIFEST_FILE, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


def files_digest(files: Iterable[Path]) -> str:
    """Return a hash of the bytes of files in their order. Raises OSError."""
    return hashlib.blake2b("".join(map(file_digest, files)).encode(), digest_size=16).hexdigest()


def file_digest(file: Path) -> str:
    """Return a hash of a file's bytes. Raises OSError."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
