"""Files in and out of the directory in which a plain Jupyter kernel works, by the host itself.

The kernel may change that directory at any moment. A path is walked one directory at a time, no link is followed, and what is
opened is looked at before it is read. All raise OSError.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lzero.repl.files import MAX_PATH
from lzero.repl.wire import MAX_LISTED
from lzero.types import WorkspaceFile

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not keep us waiting for its other end
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 64
"""Directories within each other that a listing enters: each takes a descriptor of the host."""


def put(workspace: Path, path: str, data: bytes) -> None:
    """What has the final name is complete."""
    with _parent(workspace, path, make=True) as (directory, name):
        temporary = f".{os.urandom(8).hex()}"
        try:
            with os.fdopen(os.open(temporary, _WRITE, 0o644, dir_fd=directory), "wb") as file:
                file.write(data)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise


def get(workspace: Path, path: str, max_bytes: int) -> bytes:
    with (
        _parent(workspace, path) as (directory, name),
        os.fdopen(os.open(name, _READ, dir_fd=directory), "rb") as file,
    ):
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.ENXIO, "not a regular file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, "too large")
    return data


def listing(workspace: Path) -> tuple[WorkspaceFile, ...]:
    files = []
    with _parent(workspace, "") as (directory, _):
        for file in _regular_files(directory, "", _DEEPEST):
            files.append(file)
            if len(files) > MAX_LISTED:
                raise OSError(errno.E2BIG, "more than a listing may hold")
    return tuple(files)


def _regular_files(directory: int, prefix: str, depth: int) -> Iterator[WorkspaceFile]:
    """Every regular file beneath, by name; what cannot be entered is left out."""
    for name in sorted(os.listdir(directory)):
        path = prefix + os.fsencode(name).decode("utf-8", "backslashreplace")
        if len(path.encode()) > MAX_PATH or depth == 0:
            raise OSError(errno.ENAMETOOLONG, "a path that nobody could ask for")
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                yield WorkspaceFile(path=path, size=status.st_size)
            elif stat.S_ISDIR(status.st_mode):
                inner = os.open(name, _DIRECTORY, dir_fd=directory)
                try:
                    yield from _regular_files(inner, f"{path}/", depth - 1)
                finally:
                    os.close(inner)


@contextmanager
def _parent(workspace: Path, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """The directory that a path's last part is in, as a descriptor, and that part. `make`: directories that are missing."""
    *parents, name = path.split("/")
    directory = os.open(workspace, _DIRECTORY)
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
