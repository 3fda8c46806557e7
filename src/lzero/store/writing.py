"""Write files that are complete or absent, and make new directories."""

import errno
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lzero.errors import StoreError


def new_directory(name: str) -> Path:
    """Make a new directory, such as `runs/world-20260131-174501`, with a number appended if that exists. Raises StoreError."""
    first = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        path = first if number == 1 else first.with_name(f"{first.name}-{number}")
        with as_store_error(path):
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
        return path
    raise AssertionError("counting does not end")


def write_whole(file: Path, data: bytes) -> None:
    """Write a file completely or not at all: under a temporary name, then renamed. Raises StoreError."""
    with as_store_error(file):
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}."[:100])
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            Path(name).chmod(0o644)
            Path(name).replace(file)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def append_whole(file: Path, data: bytes) -> None:
    """Append to a file, all of `data` or nothing. Raises StoreError."""
    with as_store_error(file), file.open("ab", buffering=0) as stream:
        end = stream.tell()
        try:
            if stream.write(data) != len(data):  # a full disk takes what still fits
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            stream.truncate(end)
            raise


def write_beneath(directory: Path, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Write the files of a session's workspace, by path, below `directory`. Return the paths that cannot be written there.

    The names are not trusted. A path is left out if it leads out of `directory`, by itself or over links, or does not fit this file system.
    Raises StoreError if `directory` cannot be made.
    """
    left_out = []
    with as_store_error(directory):
        directory.mkdir(parents=True, exist_ok=True)
    root = directory.resolve()
    for name, data in files.items():
        path = PurePosixPath(name)
        place = root / path
        try:
            if not path.parts or path.is_absolute() or ".." in path.parts or not _leads_into(root, place.parent):
                raise ValueError(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, data)
        except (OSError, ValueError, StoreError):
            left_out.append(name)
    return tuple(left_out)


@contextmanager
def as_store_error(path: Path) -> Iterator[None]:
    """Convert an error of the operating system in the block to a StoreError that names `path`."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}; files written before are intact") from error


def _leads_into(root: Path, directory: Path) -> bool:
    return directory.resolve().is_relative_to(root)
