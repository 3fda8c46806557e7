"""What a REPL's processes use together, seen from the host, and the end of one that uses too much or exists for too long.

An address-space limit bounds one process, and none of what many of them hold. The host therefore adds them up: resident memory
first, which is quick to read and never less than what is really held; only where that exceeds the limit, proportional memory,
which counts a page that several processes share (with the zygote, above all) by its part. proc(5): statm, smaps_rollup.

Processor time is that of the living and of those that they have waited for; what nobody waits for (a daemon) counts while it
lives. proc(5): stat.
"""

import asyncio
import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from lzero.config import ReplConfig

logger = logging.getLogger(__name__)
INTERVAL_S = 0.25
"""Time between two rounds, at least; a round takes no more than a twentieth of the time."""
_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What the host itself has run out of: no REPL's doing. The next round looks again."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Watched(Protocol):
    """A REPL, as far as the watchdog knows it."""

    @property
    def host_pids(self) -> Sequence[int]:
        """On the host, of its first processes: everything else in it descends from one of them. None where they are not known
        yet."""

    @property
    def opened(self) -> float:
        """When, by the monotonic clock."""

    def objection(self) -> str:
        """What the kernel has found already; empty for nothing."""

    def kill(self, reason: str) -> Awaitable[None]:
        """For what it did."""

    def expire(self, reason: str) -> Awaitable[None]:
        """For no fault of its own."""


@dataclass(frozen=True)
class Bounds:
    """What one REPL may use."""

    memory_bytes: int
    cpu_s: float
    lifetime_s: float

    @classmethod
    def of(cls, config: ReplConfig, memory_bytes: int) -> Self:
        return cls(memory_bytes=memory_bytes, cpu_s=config.cpu_s, lifetime_s=config.lifetime_s)


async def watch(repls: Callable[[], Iterable[Watched]], bounds: Bounds) -> None:
    """End every REPL that comes to use more than `bounds`, until cancelled."""
    while True:
        started = time.monotonic()
        for repl in list(repls()):
            if time.monotonic() - repl.opened > bounds.lifetime_s:
                await repl.expire(f"it has existed for longer than repl.lifetime_s = {bounds.lifetime_s:g}")
            elif reason := repl.objection() or objection(repl.host_pids, bounds):
                logger.info("a REPL is killed: %s", reason)
                await repl.kill(reason)
            await asyncio.sleep(0)
        await asyncio.sleep(max(INTERVAL_S, 20 * (time.monotonic() - started)))


def objection(roots: Sequence[int], bounds: Bounds) -> str:
    """Why the REPL must end; empty where it may go on. One that cannot be looked at ends, and no other with it."""
    try:
        pids = [pid for root in roots for pid in tree(root)]
        held, used = memory_of(pids, enough=bounds.memory_bytes), cpu_s_of(pids)
    except OSError as error:
        if error.errno in _SHORT_OF:
            logger.warning("what a REPL uses cannot be looked at just now: %s", error)
            return ""
        return f"memory: the host cannot read what its processes hold ({error})"
    if held > bounds.memory_bytes:
        return f"memory: its processes held {held >> 20:,} MB together, the limit is {bounds.memory_bytes >> 20:,} MB"
    if used > bounds.cpu_s:
        return f"time: its processes used {used:,.1f} s of processor time together, the limit is {bounds.cpu_s:g} s"
    return ""


def cpu_s_of(pids: Iterable[int]) -> float:
    """Processor seconds of processes and of those that they have waited for; 0 for one that is gone."""
    return sum(map(_ticks, pids)) / _TICKS


def memory_of(pids: Iterable[int], *, enough: int) -> int:
    """Bytes that processes hold: resident ones if these are no more than `enough`, else proportional ones. 0 for one that is
    gone. Raises PermissionError where the host may not look."""
    pids = list(pids)
    resident = sum(map(_resident, pids))
    return resident if resident <= enough else sum(map(_proportional, pids))


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for each in found:  # which grows meanwhile
        with suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(_PROC / str(each) / "task"):
                children = (_PROC / str(each) / "task" / thread / "children").read_text(encoding="ascii")
                found += map(int, children.split())
    return found


def _ticks(pid: int) -> int:
    try:
        _, _, after_name = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, after_name.split()[11:15]))  # utime, stime, cutime, cstime


def _resident(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Pss:", "SwapPss:")))
