"""Count the locks on files that REPLs hold: those of fcntl(2), one for each range of bytes.

The kernel limits no number of them, and counts their memory in no control group. It lists all of the machine in /proc/locks. Nobody can
lock or unlock a file while somebody reads that, so the host reads it only after the kernel's own memory has grown, and only its beginning.
"""

import os
import re
from collections import Counter
from pathlib import Path

from lzero.repl.processes import machine_bytes

MOST = 256
"""The most locks that a REPL may hold at a count. Databases take a handful for each connection."""
GROWTH_BYTES = 16 << 20
"""Growth of the kernel's own memory after which locks are counted: 80,000 of them."""
_LISTED_BYTES = 1 << 20
"""Bytes of the list that are read, about 16,000 locks. The kernel begins anew for every page of it."""
_PLACE = Path("/proc/locks")
_KERNELS = "SUnreclaim"
"""Memory of the kernel itself that it cannot take back."""
_LOCK = re.compile(rb"^\d+: POSIX +\w+ +\w+ +(\d+) (\S+ \d+ \S+)$", re.MULTILINE)
"""A lock's pid, and its place: file and range. A process holds one lock of a place."""


class Occasions:
    """Tells when a count is due."""

    def __init__(self) -> None:
        self._least = self._now = machine_bytes(_KERNELS)

    def is_due(self) -> bool:
        """Return whether the kernel's own memory has grown by GROWTH_BYTES since the last count, or since it was least."""
        self._now = machine_bytes(_KERNELS)
        self._least = min(self._now, self._least)
        return self._now >= self._least + GROWTH_BYTES

    def counted(self) -> None:
        """Wait for new growth. A count that fails does not call this, so it is repeated."""
        self._least = self._now


def held() -> Counter[int]:
    """Return pid → number of its locks, as far as the list is read. Raises OSError.

    A process that locks files while the host reads the list pushes locks of others back in it, and the host reads these again.
    """
    listed = b""
    descriptor = os.open(_PLACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while len(listed) < _LISTED_BYTES and (page := os.read(descriptor, _LISTED_BYTES)):
            listed += page
    finally:
        os.close(descriptor)
    return Counter(int(pid) for pid, _ in set(_LOCK.findall(listed)))
