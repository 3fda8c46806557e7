"""Count the locks on files that REPLs hold: those of fcntl(2), one for each range of bytes.

The kernel limits no number of them, and counts their memory in no control group. It lists all of the machine in /proc/locks. Nobody can
lock or unlock a file while somebody reads that, so the host reads it only after the kernel's own memory has grown, and only its beginning.
"""

import os
import re
from collections import Counter
from pathlib import Path

MOST = 256
"""The most locks that a REPL may hold at a count. Databases take a handful for each connection."""
GROWTH_BYTES = 16 << 20
"""Growth of the kernel's own memory after which locks are counted: 80,000 of them."""
_LISTED_BYTES = 1 << 20
"""Bytes of the list that are read, about 16,000 locks. The kernel begins anew for every page of it."""
_PLACE = Path("/proc/locks")
_MEMINFO = Path("/proc/meminfo")
_KERNELS = re.compile(r"^SUnreclaim:\s+(\d+) kB$", re.MULTILINE)
_LOCK = re.compile(rb"^\d+: POSIX +\w+ +\w+ +(\d+) (\S+ \d+ \S+)$", re.MULTILINE)
"""A lock's pid, and its place: file and range. A process holds one lock of a place."""


class Occasions:
    """Tells when a count is due."""

    def __init__(self) -> None:
        self._least = self._now = _kernels_bytes()

    def is_due(self) -> bool:
        """Return whether the kernel's own memory has grown by GROWTH_BYTES since the last count, or since it was least."""
        self._now = _kernels_bytes()
        self._least = min(self._now, self._least)
        return self._now >= self._least + GROWTH_BYTES

    def counted(self) -> None:
        """Wait for new growth. A count that fails does not call this, so it is repeated."""
        self._least = self._now


def held() -> Counter[int]:
    """Return pid → number of its locks, as far as the list is read. Raises OSError.

    The list has no order that stays: whoever locks files while it is read pushes locks of others back, and they are listed again.
    """
    listed = b""
    descriptor = os.open(_PLACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while len(listed) < _LISTED_BYTES and (page := os.read(descriptor, _LISTED_BYTES)):
            listed += page
    finally:
        os.close(descriptor)
    return Counter(int(pid) for pid, _ in set(_LOCK.findall(listed)))


def _kernels_bytes() -> int:
    """Return the bytes of the kernel's own memory that it cannot take back; 0 if the host cannot read it just now."""
    try:
        found = _KERNELS.search(_MEMINFO.read_text(encoding="ascii"))
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0
