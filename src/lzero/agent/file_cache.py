"""Cache the files that a task gives to its sessions: read once, bounded in memory, and the same for all episodes of a run."""

import asyncio
import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

from lzero.errors import DataError
from lzero.paths import file_problem, read_bounded

CACHE_BYTES = 256 << 20
"""Maximum memory for the contents of all files."""
LARGEST = 4 << 30
"""Largest file in bytes, if the session's own limit is unknown."""


class FileCache:
    """LRU cache of file contents by path. An evicted file is read again, and must not have changed."""

    def __init__(self, *, max_bytes: int = CACHE_BYTES, max_file_bytes: int = LARGEST) -> None:
        self._max_bytes = max_bytes
        self._max_file_bytes = max_file_bytes
        self._kept: OrderedDict[Path, bytes] = OrderedDict()
        self._digests: dict[Path, bytes] = {}
        self._size = 0
        self._lock = threading.Lock()

    async def read(self, path: Path) -> bytes:
        """Return the content of a file, as first read. Raises DataError if it is gone, too large or changed."""
        data = self._kept.get(path)
        return data if data is not None else await asyncio.to_thread(self.read_now, path)

    def read_now(self, path: Path) -> bytes:
        """Do the same as `read`, in this thread."""
        with self._lock:  # episodes that begin together ask for the same file
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
            try:
                data = read_bounded(path, max_bytes=self._max_file_bytes)
            except OSError as error:
                raise DataError(f"cannot give {path} to the agent: {file_problem(path) or error.strerror}") from None
            digest = hashlib.blake2b(data, digest_size=16).digest()
            if self._digests.setdefault(path, digest) != digest:
                raise DataError(f"{path} has changed since an episode of this run got it: put it back, or start anew")
            if len(data) <= self._max_bytes:
                self._kept[path] = data
                self._size += len(data)
            while self._size > self._max_bytes:
                self._size -= len(self._kept.popitem(last=False)[1])
            return data
