"""Ends REPLs that use too much or exist for too long.

An address-space limit bounds one process, and none of what many of them hold. The host therefore adds them up: resident memory
first, which is quick to read and never less than what is really held; only where that exceeds the limit, proportional memory,
which counts a page that several processes share (with the zygote, above all) by its part.

Bytes in sockets belong to no process. Each socket counts as what it can hold, whether it holds that or not.

Processes that start and end while the host reads could be missed, and their memory with them. So where the host finds other
processes after reading than before, it stops all of them for the few milliseconds of a second reading. Where REPLs have control
groups, the kernel bounds what they hold, and the host does neither.

Processor time is that of the living and of those that they have waited for; what nobody waits for (a daemon) counts while it
lives.
"""

import asyncio
import errno
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from lzero.config import ReplConfig
from lzero.errors import SandboxError
from lzero.repl import processes

logger = logging.getLogger(__name__)
INTERVAL_S = 0.25
"""Time between two rounds, at least."""
_QUICK, _THOROUGH = 0.05, 0.2
"""Shares of the time that quick and thorough looks may take; then rounds are further apart."""
_AGAIN_S = 0.02
"""Between two looks at a REPL that holds too much: a process that is about to run a program shares its parent's memory until
then, and would count twice."""
_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What the host itself has run out of: no REPL's doing. The next round looks again."""
_UNSEEN = 0.25
"""By this share of a REPL's limit the machine's memory may shrink before the host looks again."""
_MEMINFO = Path("/proc/meminfo")
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)
_WHOLE_BUFFERS = 2
"""Number of buffer sizes that a socket can hold: the longest datagram is as large as the buffer, and may come when that is nearly full."""


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
    socket_bytes: int = 0
    """Bytes that a socket counts as; 0 if control groups count what lies in it, or others have sockets in the same network namespace."""
    whole: bool = False
    """Whether a look has to find every process; not where control groups do."""

    @classmethod
    def of(cls, config: ReplConfig, memory_bytes: int, *, alone: bool = False) -> Self:
        """`alone`: nothing else bounds what sandboxed REPLs hold. Raises SandboxError."""
        return cls(
            memory_bytes=memory_bytes,
            cpu_s=config.cpu_s,
            lifetime_s=config.lifetime_s,
            socket_bytes=socket_bytes() if alone else 0,
            whole=alone,
        )


def socket_bytes() -> int:
    """Return the bytes that an AF_UNIX socket can hold, if nobody may enlarge its buffer. Raises SandboxError."""
    try:
        one, other = socket.socketpair()
    except OSError as error:
        raise SandboxError(f"cannot start the sandbox: {error}; raise the limit on open files (ulimit -n)") from None
    with one, other:
        return _WHOLE_BUFFERS * one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


async def watch(repls: Callable[[], Iterable[Watched]], bounds: Bounds) -> None:
    """End every REPL that comes to use more than `bounds`, until cancelled."""
    while True:
        quick_s = 0.0
        async with asyncio.TaskGroup() as thorough:  # which takes longer, and holds up nobody else's look
            for repl in list(repls()):
                if time.monotonic() - repl.opened > bounds.lifetime_s:
                    await repl.expire(f"it has existed for longer than repl.lifetime_s = {bounds.lifetime_s:g}")
                elif reason := repl.objection():
                    await _end(repl, reason)
                else:
                    began = time.thread_time()
                    well = _is_well(repl.host_pids, bounds)
                    quick_s += time.thread_time() - began
                    if not well:
                        thorough.create_task(_judge(repl, bounds))
                await asyncio.sleep(0)
            began = time.monotonic()
        await _rest(max(quick_s / _QUICK, (time.monotonic() - began) / _THOROUGH), bounds)


async def objection(roots: Sequence[int], bounds: Bounds) -> str:
    """Why the REPL must end; empty where it may go on. One that cannot be looked at ends, and no other with it."""
    try:
        if not await _look(roots, bounds):
            return ""
        await asyncio.sleep(_AGAIN_S)
        return await _look(roots, bounds)
    except processes.Restless:
        return "memory: its processes start and continue each other too fast for the host to add up what they hold"
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) or error.errno in _SHORT_OF:
            logger.warning("what a REPL uses cannot be looked at just now: %s", error)
            return ""
        return f"memory: the host cannot read what its processes hold ({error})"


async def _judge(repl: Watched, bounds: Bounds) -> None:
    if reason := await objection(repl.host_pids, bounds):
        await _end(repl, reason)


async def _end(repl: Watched, reason: str) -> None:
    logger.info("a REPL is killed: %s", reason)
    await repl.kill(reason)


async def _rest(rest_s: float, bounds: Bounds) -> None:
    """Wait for the next round. It comes early if the machine's memory shrinks by more than a REPL may take unseen."""
    until = time.monotonic() + rest_s
    enough = _available_bytes() - bounds.memory_bytes * _UNSEEN
    await asyncio.sleep(INTERVAL_S)
    while time.monotonic() < until and _available_bytes() > enough:
        await asyncio.sleep(INTERVAL_S)


def _available_bytes() -> int:
    """Return the machine's available memory; 0 if the host cannot read it just now."""
    try:
        found = _AVAILABLE.search(_MEMINFO.read_text(encoding="ascii"))
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


def _is_well(roots: Sequence[int], bounds: Bounds) -> bool:
    """Return whether a quick look sees all processes and no excess."""
    try:
        pids = processes.tree(roots)
        held = _in_sockets(pids, bounds) + processes.resident_bytes(pids)
        used = processes.cpu_s_of(pids)
        return held <= bounds.memory_bytes and used <= bounds.cpu_s and _is_whole(pids, roots, bounds)
    except OSError:
        return False


async def _look(roots: Sequence[int], bounds: Bounds) -> str:
    """Return the excess that a thorough look finds, "" for none. Reading proportional memory takes a while, so a thread does it."""
    pids = processes.tree(roots)
    found = await asyncio.to_thread(_excess, pids, bounds)
    if not found and not _is_whole(pids, roots, bounds):
        async with processes.standstill(roots) as pids:
            found = await asyncio.to_thread(_excess, pids, bounds)
    return found


def _is_whole(pids: Sequence[int], roots: Sequence[int], bounds: Bounds) -> bool:
    """Whether the processes that were looked at are those that there are."""
    return not bounds.whole or processes.tree(roots) == pids


def _in_sockets(pids: Sequence[int], bounds: Bounds) -> int:
    return processes.sockets_of(pids) * bounds.socket_bytes if bounds.socket_bytes else 0


def _excess(pids: Sequence[int], bounds: Bounds) -> str:
    in_sockets = _in_sockets(pids, bounds)
    held = in_sockets + processes.memory_of(pids, enough=bounds.memory_bytes - in_sockets)
    if held > bounds.memory_bytes:
        counted = f" ({in_sockets >> 20:,} MB of it for its sockets)" if in_sockets >> 20 else ""
        return f"memory: its processes held {held >> 20:,} MB together{counted}, the limit is {bounds.memory_bytes >> 20:,} MB"
    if (used := processes.cpu_s_of(pids)) > bounds.cpu_s:
        return f"time: its processes used {used:,.1f} s of processor time together, the limit is {bounds.cpu_s:g} s"
    return ""
