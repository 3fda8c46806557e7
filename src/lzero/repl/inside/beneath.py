"""Read and write regular files below a directory that other processes may change at any moment.

Paths are walked one directory at a time, and no link is followed. A file's type is checked after it is opened, before it is read. All
functions raise OSError.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

LONGEST_PATH = 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a FIFO must not wait for its other end
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def written(root: str, path: str) -> Iterator[BinaryIO]:
    """Open a file for writing under a temporary name, and rename it at the end, so that a file with the final name is complete."""
    with _parent(root, path, make=True) as (directory, name):
        temporary = f".{os.urandom(8).hex()}"
        try:
            with os.fdopen(os.open(temporary, _WRITE, 0o644, dir_fd=directory), "wb") as file:
                yield file
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise


@contextmanager
def opened(root: str, path: str) -> Iterator[BinaryIO]:
    with _parent(root, path) as (directory, name):
        descriptor = os.open(name, _READ, dir_fd=directory)
        try:
            kind = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(kind):
                raise OSError(errno.EISDIR if stat.S_ISDIR(kind) else errno.ENXIO, "not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)


def regular_files(root: str, *, deepest: int = LONGEST_PATH) -> Iterator[tuple[str, int]]:
    """Yield the path and size in bytes of every regular file, in order of names. Skips directories that cannot be entered.

    Each level of directories takes a descriptor; `deepest` bounds their number.
    """
    with _parent(root, "") as (directory, _):
        yield from _walk(directory, "", deepest)


def _walk(directory: int, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    for name in sorted(os.listdir(directory)):
        path = prefix + os.fsencode(name).decode("utf-8", "backslashreplace")
        if len(path.encode()) > LONGEST_PATH or depth == 0:
            raise OSError(errno.ENAMETOOLONG, "a path that nobody could ask for")
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                yield path, status.st_size
            elif stat.S_ISDIR(status.st_mode):
                inner = os.open(name, _DIRECTORY, dir_fd=directory)
                try:
                    yield from _walk(inner, f"{path}/", depth - 1)
                finally:
                    os.close(inner)


@contextmanager
def _parent(root: str, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the directory that a path's last part is in, and that part. `make`: create missing directories."""
    *parents, name = path.split("/")
    directory = os.open(root, _DIRECTORY)
    try:
        for parent in parents:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(parent, 0o755, dir_fd=directory)
            inner = os.open(parent, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
        yield directory, name
    finally:
        os.close(directory)
