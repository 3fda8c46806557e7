"""How much memory a REPL's processes hold together, seen from the host, and the end of one that holds too much.

An address-space limit bounds one process, and none of what many of them hold. The host therefore adds them up: resident memory
first, which is quick to read and never less than what is really held; only where that exceeds the limit, proportional memory,
which counts a page that several processes share (with the zygote, above all) by its part. proc(5): statm, smaps_rollup.
"""

import asyncio
import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)
INTERVAL_S = 0.25
"""Time between two rounds, at least; a round takes no more than a twentieth of the time."""
_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What the host itself has run out of: no REPL's doing. The next round looks again."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


class Watched(Protocol):
    """A REPL, as far as the watchdog knows it."""

    @property
    def host_pid(self) -> int:
        """Of its init, on the host; 0 where it is not known yet."""

    def kill(self, reason: str) -> Awaitable[None]: ...


async def watch(repls: Callable[[], Iterable[Watched]], *, limit_bytes: int) -> None:
    """Kill every REPL that comes to hold more than `limit_bytes`, until cancelled."""
    while True:
        started = time.monotonic()
        for repl in list(repls()):
            reason = _objection(repl.host_pid, limit_bytes)
            if reason:
                logger.info("a REPL is killed: %s", reason)
                await repl.kill(reason)
            await asyncio.sleep(0)
        await asyncio.sleep(max(INTERVAL_S, 20 * (time.monotonic() - started)))


def _objection(pid: int, limit_bytes: int) -> str:
    """Why the REPL must end; empty where it may go on. One that cannot be looked at ends, and no other with it."""
    try:
        held = memory_of(pid, enough=limit_bytes)
    except OSError as error:
        if error.errno in _SHORT_OF:
            logger.warning("the memory of a REPL cannot be looked at just now: %s", error)
            return ""
        return f"memory: the host cannot read what its processes hold ({error})"
    if held > limit_bytes:
        return f"memory: its processes held {held >> 20:,} MB together, the limit is {limit_bytes >> 20:,} MB"
    return ""


def memory_of(pid: int, *, enough: int) -> int:
    """Bytes that a process and its descendants hold: resident ones if these are no more than `enough`, else proportional ones.
    0 for a process that is gone. Raises PermissionError where the host may not look."""
    pids = list(_tree(pid))
    resident = sum(_resident(each) for each in pids)
    return resident if resident <= enough else sum(_proportional(each) for each in pids)


def _tree(pid: int) -> Iterator[int]:
    """The process and its descendants."""
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        yield pid
        with suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(_PROC / str(pid) / "task"):
                children = (_PROC / str(pid) / "task" / thread / "children").read_text(encoding="ascii")
                waiting += map(int, children.split())


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
