"""Explain why a file that a person names cannot be read, and read files within a bound."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from lzero.json_bounds import has_too_many

_REASONS = {errno.ENOENT: "there is no such file", errno.ENOTDIR: "part of its path is a file, not a directory"}


def file_problem(path: Path) -> str:
    """Return why `path` cannot be read as a regular file ("it is a directory, not a file"); "" if it can."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return _REASONS.get(error.errno or 0) or error.strerror or str(error)
    except ValueError:  # a null byte, or a character that no file name here can hold
        return "there is no such file"
    if stat.S_ISDIR(mode):
        return "it is a directory, not a file"
    if not stat.S_ISREG(mode):
        return "it is not a regular file"
    return "" if os.access(path, os.R_OK) else "this user may not read it"


def cache_directory(name: str) -> Path:
    """Return lzero's directory of this name for what can be made again, below $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lzero" / name


def is_within(file: Path, directory: Path) -> bool:
    """Return whether `file`, with all links followed, lies beneath `directory`. For files that another file names."""
    try:
        return file.resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links; a null byte
        return False


def read_bounded(
    path: Path,
    *,
    max_bytes: int,
    max_values: int | None = None,
    check: Callable[[os.stat_result], None] | None = None,
) -> bytes:
    """Read a regular file of at most `max_bytes` bytes and, if it is JSON in UTF-8, `max_values` values. Never waits for a pipe.

    `check` is called with the open file's status, and may raise. Raises OSError; its `strerror` gives the reason, also if the file is too
    large or not regular.
    """
    if problem := file_problem(path):
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise OSError(errno.EINVAL, problem)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if check is not None:
            check(status)
        data = file.read(max_bytes + 1) if status.st_size <= max_bytes else b""
    if status.st_size > max_bytes or len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes:,} bytes")
    if max_values is not None and has_too_many(data, max_values):
        raise OSError(errno.EFBIG, f"it holds more than {max_values:,} values")
    return data
