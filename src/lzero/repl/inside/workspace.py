"""Files of the workspace, in and out, by the session itself and with no rights but its own.

A path is walked one directory at a time and no link is followed; what is opened is looked at before it is read, and is a regular
file. The host relies on none of this: it checks what it is sent.
"""

import base64
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from frames import Channel, Closed
from isolate import HOME

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not keep us waiting for its other end
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_PATH = 1024


def serve(message: dict[str, Any], channel: Channel) -> None:
    """Do what the host's `put`, `get` or `list` asks. What cannot be done is refused, and the session goes on."""
    try:
        match message["type"]:
            case "put":
                _put(message["path"], channel)
            case "get":
                _get(message["path"], message["max_bytes"], message["chunk_bytes"], channel)
            case "list":
                files = _list(message["max_files"], message["max_bytes"])
                channel.send({"type": "listing", "files": files})
    except (Closed, ConnectionError):
        raise
    except Exception as error:  # whatever a cell has done to what we stand on
        channel.send({"type": "refused", "errno": getattr(error, "errno", None) or errno.EIO})


def _put(path: str, channel: Channel) -> None:
    chunks = _chunks(channel)
    try:
        with _parent(path, make=True) as (directory, name):
            temporary = f".{os.urandom(8).hex()}"  # what has the final name is complete
            try:
                with os.fdopen(os.open(temporary, _WRITE, 0o644, dir_fd=directory), "wb") as file:
                    file.writelines(chunks)
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)
                raise
    finally:
        for _ in chunks:  # the host sends all of it, whatever became of the first
            pass
    channel.send({"type": "stored"})


def _chunks(channel: Channel) -> Iterator[bytes]:
    while True:
        message = channel.receive()
        yield base64.b64decode(message["data"])
        if message["last"]:
            return


def _get(path: str, max_bytes: int, chunk_bytes: int, channel: Channel) -> None:
    with _parent(path) as (directory, name), os.fdopen(os.open(name, _READ, dir_fd=directory), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENXIO, "not a regular file")
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, "too large")
        left = status.st_size  # and no more, should it grow meanwhile
        while True:
            data = file.read(min(chunk_bytes, left))
            left -= len(data)
            last = left <= 0 or len(data) < chunk_bytes
            channel.send({"type": "chunk", "data": base64.b64encode(data).decode(), "last": last})
            if last:
                return


def _list(max_files: int, max_bytes: int) -> list[dict[str, Any]]:
    files = []
    room = max_bytes
    with _parent("") as (workspace, _):
        for path, size in _regular_files(workspace, ""):
            files.append({"path": path, "size": size})
            room -= 6 * len(path) + 64  # a character may take six in JSON
            if len(files) > max_files or room < 0:
                raise OSError(errno.E2BIG, "more than a listing may hold")
    return files


def _regular_files(directory: int, prefix: str) -> Iterator[tuple[str, int]]:
    """Path and bytes of every regular file beneath, by name; what the session cannot enter is left out."""
    for name in sorted(os.listdir(directory)):
        path = prefix + os.fsencode(name).decode("utf-8", "backslashreplace")
        if len(path.encode()) > _LONGEST_PATH:
            raise OSError(errno.ENAMETOOLONG, "a path that nobody could ask for")
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                yield path, status.st_size
            elif stat.S_ISDIR(status.st_mode):
                inner = os.open(name, _DIRECTORY, dir_fd=directory)
                try:
                    yield from _regular_files(inner, f"{path}/")
                finally:
                    os.close(inner)


@contextmanager
def _parent(path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """The directory that a path's last part is in, as a descriptor, and that part. `make`: directories that are missing."""
    *parents, name = path.split("/")
    directory = os.open(HOME, _DIRECTORY)
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
