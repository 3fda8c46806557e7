"""Copy files into and out of a REPL's workspace, from the host: it asks, the session reads and writes, and the host checks every answer.

The host opens no file of a session. A dishonest session may send other bytes, but never more than the host asked for.
"""

import errno
import os
from pathlib import PurePosixPath
from typing import NoReturn

from lzero.config import ReplConfig
from lzero.errors import ProtocolError, WorkspaceError
from lzero.repl import wire
from lzero.repl.connection import Connection
from lzero.types import WorkspaceFile

MAX_PATH = 1024
"""Bytes of a path, as UTF-8."""
_REASONS = {
    errno.ENOENT: "it is not there",
    errno.ELOOP: "it is a link, and links are not followed",
    errno.ENXIO: "it is not a regular file",
    errno.EISDIR: "it is a directory",
    errno.ENOTDIR: "its path leads through something that is no directory; links are not followed",
    errno.ENOSPC: "the workspace is full (repl.disk_mb, repl.files)",
    errno.E2BIG: f"there are more than {wire.MAX_LISTED:,} files, or more names than a listing holds",
    errno.ENAMETOOLONG: f"a name in it is longer than 255 bytes, or a path longer than {MAX_PATH:,}",
}
"""Explanations of a session's refusals; others get the system's own message."""


class Transfers:
    """Transfers of one REPL's files, over its connection, between its cells.

    All methods raise WorkspaceError for a mistake of the caller, after which the connection is unchanged. They raise ProtocolError,
    ConnectionError and TimeoutError (at `until`) for a failure of the session, after which the connection is unusable.
    """

    def __init__(self, connection: Connection, config: ReplConfig) -> None:
        self._connection = connection
        self._allowance = Allowance(config)

    async def put(self, path: str, data: bytes, *, until: float) -> None:
        target = workspace_path(path)
        self._allowance.admit(target, len(data))
        await self._connection.send(wire.Put(path=target), until=until)
        for start in range(0, len(data) or 1, wire.CHUNK_BYTES):
            end = start + wire.CHUNK_BYTES
            await self._connection.send(wire.Chunk(data=data[start:end], last=end >= len(data)), until=until)
        answer = await self._connection.receive(until=until)
        if not isinstance(answer, wire.Stored):
            self._refuse(answer, target)

    async def get(self, path: str, *, until: float) -> bytes:
        target = workspace_path(path)
        self._allowance.admit(target, 0)
        limit = self._allowance.file_bytes
        await self._connection.send(wire.Get(path=target, max_bytes=limit), until=until)
        arriving, whole = Arriving(wire.CHUNK_BYTES, limit), None
        while whole is None:
            answer = await self._connection.receive(until=until)
            if not isinstance(answer, wire.Chunk):
                self._refuse(answer, target)
            whole = arriving.add(answer.data, last=answer.last)
        return whole

    async def files(self, *, until: float) -> tuple[WorkspaceFile, ...]:
        await self._connection.send(wire.List(), until=until)
        answer = await self._connection.receive(until=until)
        if not isinstance(answer, wire.Listing):
            self._refuse(answer, "the workspace")
        return checked(wire.files_of(answer))

    def _refuse(self, answer: wire.FromKernel, path: str) -> NoReturn:
        if not isinstance(answer, wire.Refused):
            raise ProtocolError(f"{type(answer).__name__} where a file was asked for")
        raise self._allowance.refusal(path, answer.errno)


class Arriving:
    """A file that arrives in parts of one size; only the last part is shorter."""

    def __init__(self, part_bytes: int, max_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._max_bytes = max_bytes
        self._data = bytearray()

    def add(self, data: bytes, *, last: bool) -> bytes | None:
        """Add a part. Return the whole file after the last one. Raises ProtocolError for a part of another size, or a file too large."""
        self._data += data
        if len(self._data) > self._max_bytes:
            raise ProtocolError(f"a file of more than the {self._max_bytes:,} bytes that were asked for")
        if not last and len(data) != self._part_bytes:
            raise ProtocolError(f"{len(data):,} bytes in the middle of a file; {self._part_bytes:,} were due")
        return bytes(self._data) if last else None


class Allowance:
    """The limits on one REPL's transfers, and the number made so far."""

    def __init__(self, config: ReplConfig) -> None:
        self.file_bytes = config.file_mb << 20
        self._most = config.transfers
        self._done = 0

    def admit(self, path: str, size: int) -> None:
        """Count one file. Raises WorkspaceError if it is too large, or one too many."""
        if size > self.file_bytes:
            raise WorkspaceError(
                f"{path!r}: {size:,} bytes exceed the limit of {self.file_bytes:,} for a file; raise repl.file_mb"
            )
        if self._done >= self._most:
            raise WorkspaceError(
                f"{path!r}: {self._done} files were copied into or out of this REPL, which is the limit; raise repl.transfers"
            )
        self._done += 1

    def refusal(self, path: str, number: int) -> WorkspaceError:
        """Return the error for a file that could not be read or written, by the number of the system's error (errno(3))."""
        if number == errno.EFBIG:
            return WorkspaceError(
                f"{path!r}: the file exceeds the limit of {self.file_bytes:,} bytes; raise repl.file_mb"
            )
        return WorkspaceError(f"{path!r}: {_REASONS.get(number) or os.strerror(number)}")


def workspace_path(path: str) -> str:
    """Return the path relative to the workspace, without `.` and doubled slashes. Raises WorkspaceError if it is invalid."""
    objection = _objection(path)
    if objection:
        raise WorkspaceError(f"{path[:100]!r}: {objection}")
    return str(PurePosixPath(path))


def checked(files: tuple[WorkspaceFile, ...]) -> tuple[WorkspaceFile, ...]:
    """Return the listing unchanged. Raises ProtocolError if a path or a size in it is invalid."""
    for file in files:
        if _objection(file.path) or file.size < 0:
            raise ProtocolError(f"{file.path[:100]!r} of {file.size} bytes is no file of a workspace")
    return files


def _objection(path: str) -> str:
    """Return why the path is not valid in a workspace; "" if it is."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "a path must be valid Unicode"
    pure = PurePosixPath(path)
    if size > MAX_PATH:
        return f"the path has {size:,} bytes, and the limit is {MAX_PATH:,}"
    if "\0" in path:
        return "the path contains a null byte"
    if pure.is_absolute() or ".." in pure.parts:
        return "the path leaves the workspace: give a relative path without '..'"
    if not pure.parts:
        return "the path names no file"
    return ""
