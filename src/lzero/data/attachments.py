"""Resolve the files that rows of a task file name: paths relative to the task file's directory, checked when the rows are read.

A task file may come from a stranger, and an agent reads the files that it names. So the files must lie below the task file's directory, and
links are refused.
"""

import hashlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lzero.config import ReplConfig
from lzero.data.rows import Row
from lzero.data.shapes import Inline
from lzero.paths import cache_directory, file_problem
from lzero.store.writing import as_store_error, write_whole

UNBOUNDED = 4 << 30
"""Bytes of the largest file if a pool server has its own limit."""


@dataclass(frozen=True, kw_only=True)
class FileLimits:
    """Limits of the files that a task may give to its session. `FileLimits(file_bytes=16 << 20, total_bytes=256 << 20, count=256)`."""

    file_bytes: int = UNBOUNDED
    total_bytes: int = UNBOUNDED
    count: int = 1 << 16

    @classmethod
    def of(cls, config: ReplConfig) -> "FileLimits":
        """Return the limits of REPLs of this machine; pool servers have limits of their own."""
        if config.is_elsewhere:
            return cls()
        total = config.disk_mb << 20 if config.tier == "namespaces" else UNBOUNDED
        return cls(file_bytes=config.file_mb << 20, total_bytes=total, count=config.transfers)


class Attachments:
    """Resolves the files of rows. Looks at each file once, however many rows name it."""

    def __init__(self, directory: Path, limits: FileLimits) -> None:
        """`directory` is the task file's."""
        self._directory = directory
        self._limits = limits
        self._seen: dict[str, tuple[str, int]] = {}
        """Name → problem and size."""

    def paths(self, row: Row, field: str = "files") -> tuple[str, ...]:
        """Return the absolute paths of a row's files. Raises DataError, which names the line, the field and the file."""
        value = row.fields.get(field)
        inline = [each for each in value if isinstance(each, Inline)] if isinstance(value, list) else []
        if inline:
            return tuple(str(self._keep(each)) for each in inline)
        names = row.texts(field)
        total = 0
        for name in names:
            if name not in self._seen:
                self._seen[name] = self._look(name)
            problem, size = self._seen[name]
            if problem:
                raise row.error(field, f"names {name!r:.200}: {problem}")
            total += size
        if problem := self._too_much(names, total):
            raise row.error(field, problem)
        return tuple(str(self._directory.absolute() / name) for name in names)

    def are_meant(self, value: object) -> bool:
        """Return whether a value in another field than `files` names files: it is a list, or the path of a file that exists."""
        return isinstance(value, list) or (isinstance(value, str) and not self._look(value)[0])

    def _keep(self, inline: Inline) -> Path:
        """Write a file that stands in a row to lzero's cache, under its hash, and return its path. Raises StoreError."""
        data = inline.text.encode()
        place = cache_directory("files") / hashlib.blake2b(data, digest_size=16).hexdigest() / inline.name
        with as_store_error(place):
            if not place.is_file() or place.stat().st_size != len(data):
                place.parent.mkdir(parents=True, exist_ok=True)
                write_whole(place, data)
        return place

    def _too_much(self, names: Sequence[str], total: int) -> str:
        limits = self._limits
        bases: dict[str, str] = {}
        for name in names:
            base = PurePosixPath(name).name
            if base in bases:
                return f"names {bases[base]!r} and {name!r}: in a session both would be {base!r}; rename one"
            bases[base] = name
        if len(names) > limits.count:
            return f"names {len(names):,} files; a session takes {limits.count:,} (repl.transfers)"
        if total > limits.total_bytes:
            return f"names files of {total:,} bytes; a session holds {limits.total_bytes:,} (repl.disk_mb)"
        return ""

    def _look(self, name: str) -> tuple[str, int]:
        """Return why a file cannot be given, "" if it can, and its size in bytes."""
        if problem := _objection(name):
            return problem, 0
        file = self._directory
        for part in PurePosixPath(name).parts:
            file /= part
            if _is_link(file):
                return f"{file} is a symbolic link, and links are not followed; put the file itself there", 0
        if problem := file_problem(file):
            return f"{file} cannot be read: {problem}", 0
        size = file.stat().st_size
        if size > self._limits.file_bytes:
            return f"its {size:,} bytes are more than the {self._limits.file_bytes:,} of a file (repl.file_mb)", 0
        return "", size


def _objection(name: str) -> str:
    path = PurePosixPath(name)
    if "\0" in name or not path.name:
        return "that is no file name"
    if path.is_absolute():
        return "the path is absolute; give it relative to the task file's directory"
    if ".." in path.parts:
        return "the path leaves the task file's directory; put the file beneath it, and name it without '..'"
    return ""


def _is_link(path: Path) -> bool:
    try:
        return stat.S_ISLNK(path.lstat().st_mode)
    except OSError:  # file_problem reports it
        return False
