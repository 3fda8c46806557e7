"""Temporary directories, locked by their owner: the next process of the same machine removes those whose owner was killed.

    /tmp/lzero-rank-3f9c01aa-x2k8ab1c       PREFIX, a mark of the machine, and a random text

The owner locks its directory. The kernel gives the lock back when the owner ends, however it ends. Locks of some shared file systems hold
on one machine only, so a process removes directories of its own machine alone.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

NEW_S = 60.0
"""Seconds for which a directory that nobody has locked may be one that is being made."""


class OwnedDirectory:
    """A new directory that this process owns until `remove`."""

    def __init__(self, prefix: str, place: Path | None = None) -> None:
        """Make it in `place`, the directory for temporary files by default. Raises OSError."""
        place = place or Path(tempfile.gettempdir())
        self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}{machine()}-", dir=place))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        with suppress(OSError):  # a file system without locks: nobody removes what is left there
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Remove it with all that it holds. Safe to call twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def sweep(prefix: str, place: Path | None = None) -> None:
    """Remove the directories of this user whose owner on this machine has ended without removing them."""
    for left in (place or Path(tempfile.gettempdir())).glob(f"{prefix}{machine()}-*"):
        with suppress(OSError):  # locked, another user's, or removed meanwhile
            about = left.lstat()
            if about.st_uid != os.geteuid() or time.time() - about.st_mtime < NEW_S:
                continue
            lock = os.open(left, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


def machine() -> str:
    """Return a mark of this machine, of eight characters. Machines with one name differ by their /etc/machine-id."""
    number = ""
    with suppress(OSError):
        number = Path("/etc/machine-id").read_text("ascii", errors="replace").strip()
    return hashlib.sha256(f"{socket.gethostname()}\0{number}".encode()).hexdigest()[:8]
