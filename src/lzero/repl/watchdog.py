"""End REPLs that use too much or exist for too long.

An address-space limit bounds one process, but not the sum of many. The host therefore adds up their memory. Resident memory comes first: it
is quick to read and never too low. Only if that exceeds the limit, the host reads proportional memory, which divides a shared page among
the processes that share it, with the zygote above all.

Bytes in sockets belong to no process. Each socket counts as the most that it can hold. Locks on files do not either, and no control group
counts them: `lzero.repl.locks` does.

Processes that start and end while the host reads could be missed, and their memory with them. If the host finds other processes after
reading than before, it stops all of them for the few milliseconds of a second reading. If REPLs have control groups, the kernel bounds
their memory, and the host does neither. The memory of a process shows at each of its threads. If all of them end before they are read,
because they start each other, the host stops them in the same way.

Processor time is that of living processes and of those that they have waited for. A process that nobody waits for (a daemon) counts while
it lives.
"""

import asyncio
import errno
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, Self

from lzero.config import ReplConfig
from lzero.errors import ReplError, SandboxError
from lzero.repl import locks, processes

logger = logging.getLogger(__name__)
INTERVAL_S = 0.25
"""Time between two rounds, at least."""
_QUICK, _THOROUGH = 0.05, 0.2
"""Shares of a processor that the quick and the thorough looks at all REPLs may take; then looks are further apart."""
_THREADS = 32
"""Number of thorough looks at once."""
_LOCKS_S, _STEP_S = 5.0, 0.25
"""Seconds that a thorough look may wait for locks of the processes that it reads, counted in steps. Time in which its thread waits for
a processor or for Python's lock does not count, so a busy machine ends no REPL."""
_AGAIN_S = 0.02
"""Seconds between two looks at a REPL that holds too much. A process that is about to run a program shares its parent's memory until then,
and would count twice.
"""
_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that mean the host itself has run out of something, through no REPL's fault. The next round looks again."""
_UNSEEN = 0.25
"""Share of a REPL's limit by which the machine's memory may shrink before the host looks again."""
_WHOLE_BUFFERS = 2
"""Number of buffer sizes that a socket can hold: the longest datagram is as large as the buffer, and may come when that is nearly full."""


class Watched(Protocol):
    """A REPL with the attributes that the watchdog needs."""

    @property
    def host_pids(self) -> Sequence[int]:
        """Pids on the host of its first processes, from which all others descend; empty while they are unknown."""

    @property
    def opened(self) -> float:
        """The time when it was opened, by the monotonic clock."""

    def objection(self) -> str:
        """Return the kernel's reason why the REPL must end; "" if there is none."""

    def kill(self, reason: str) -> Awaitable[None]:
        """End the REPL because of what it did."""

    def expire(self, reason: str) -> Awaitable[None]:
        """End the REPL through no fault of its own."""


@dataclass(frozen=True)
class Bounds:
    """The most that one REPL may use."""

    memory_bytes: int
    cpu_s: float
    lifetime_s: float
    socket_bytes: int = 0
    """Bytes that a socket counts as; 0 if control groups count what lies in it, or others have sockets in the same network namespace."""
    whole: bool = False
    """Whether a look must find every process; False if control groups do."""

    @classmethod
    def of(cls, config: ReplConfig, memory_bytes: int, *, alone: bool = False) -> Self:
        """Return the bounds of a configuration. `alone`: nothing else bounds the memory of sandboxed REPLs. Raises SandboxError."""
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
    watchdog = _Watchdog(bounds)
    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                quick_s = await watchdog.round(repls(), tasks)
                await _rest(quick_s / _QUICK, bounds)
    finally:
        watchdog.threads.shutdown(wait=False, cancel_futures=True)


def require(watching: "asyncio.Task[None] | None") -> None:
    """Raise SandboxError if the watching task has ended, because no REPL may be opened then. None: the task has not started yet."""
    if watching is not None and watching.done():
        failure = None if watching.cancelled() else watching.exception()
        raise SandboxError(f"the watchdog on the memory of REPLs failed: {failure!r}")


class _Watchdog:
    """Looks at all REPLs quickly, in rounds. What may take longer, a thorough look or an end, is a task of that REPL alone."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="lzero-watchdog")
        self._free = asyncio.Semaphore(_THREADS)
        """Counts idle threads. A look waits for one before its time limit starts."""
        self._busy: set[Watched] = set()
        """REPLs that have a running task."""
        self._rests: dict[Watched, _Rest] = {}
        """REPL that failed its last quick look → the rest after its last thorough look."""
        self._occasions = locks.Occasions()
        self._counting: asyncio.Task[None] | None = None
        """The last count of locks on files."""

    async def round(self, repls: Iterable[Watched], tasks: asyncio.TaskGroup) -> float:
        """Look at each REPL quickly, and start the tasks that follow. Return the processor seconds of the looks."""
        quick_s, available_bytes, repls = 0.0, _available_bytes(), list(repls)
        for gone in self._rests.keys() - set(repls):
            del self._rests[gone]
        for repl in repls:
            if repl in self._busy:
                continue
            if time.monotonic() - repl.opened > self._bounds.lifetime_s:
                reason = f"it has existed for longer than repl.lifetime_s = {self._bounds.lifetime_s:g}"
                self._start(tasks, repl, _end(repl.expire, reason))
            elif reason := repl.objection():
                self._start(tasks, repl, _end(repl.kill, reason))
            else:
                began = time.thread_time()
                well = _is_well(repl.host_pids, self._bounds)
                quick_s += time.thread_time() - began
                if well:
                    self._rests.pop(repl, None)
                elif self._rests.setdefault(repl, _Rest()).is_over(available_bytes):
                    self._start(tasks, repl, self._judge(repl))
            await asyncio.sleep(0)
        if (self._counting is None or self._counting.done()) and self._occasions.is_due():
            self._counting = tasks.create_task(self._count_locks(repls, tasks))
        return quick_s

    async def _count_locks(self, repls: Sequence[Watched], tasks: asyncio.TaskGroup) -> None:
        """End every REPL that holds too many locks on files."""
        try:
            held = await asyncio.to_thread(locks.held)
            for repl in repls if held.total() > locks.MOST else ():
                number = sum(held[pid] for pid in processes.tree(repl.host_pids))
                if number > locks.MOST:  # also while a task looks at it: a REPL can see to that
                    reason = f"memory: its processes held {number:,} locks on files, of which {locks.MOST} are allowed"
                    self._start(tasks, repl, _end(repl.kill, reason))
                await asyncio.sleep(0)
            self._occasions.counted()
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            logger.warning("locks on files cannot be counted just now: %s", error)

    def _start(self, tasks: asyncio.TaskGroup, repl: Watched, task: Coroutine[None, None, None]) -> None:
        self._busy.add(repl)
        tasks.create_task(task).add_done_callback(lambda _: self._busy.discard(repl))

    async def _judge(self, repl: Watched) -> None:
        """Look at one REPL thoroughly, and end it if it exceeds its bounds or the look cannot go on."""
        look = _Look(repl, self._bounds)
        await self._free.acquire()
        try:
            looking = asyncio.get_running_loop().run_in_executor(self.threads, look.objection)
        except RuntimeError as error:
            self._free.release()
            logger.warning("what a REPL uses cannot be looked at just now: %s", error)
            return
        looking.add_done_callback(lambda _: self._free.release())
        try:
            if reason := await _in_time(look, looking):
                await _end(repl.kill, reason)
            await asyncio.wait({looking})  # a blocked thread goes on as soon as the process is gone
        finally:
            looking.cancel()
        self._rests[repl] = _Rest.of(look.cpu_s * len(self._rests) / _THOROUGH, self._bounds)


class _Look:
    """A thorough look at one REPL, made in a thread, as it may wait for a process's lock."""

    def __init__(self, repl: Watched, bounds: Bounds) -> None:
        self._repl = repl
        self._bounds = bounds
        self._thread = 0
        self.cpu_s = 0.0
        """Processor seconds of the look."""

    def objection(self) -> str:
        """Return what the function `objection` returns, and measure it."""
        self._thread, began = threading.get_native_id(), time.thread_time()
        found = objection(self._repl.host_pids, self._bounds)
        self.cpu_s = time.thread_time() - began
        return found

    def waits(self) -> bool:
        """Return whether its thread waits for a lock of the kernel just now; False if the host cannot tell."""
        with suppress(OSError):
            return bool(self._thread) and processes.waits(self._thread)
        return False


async def _in_time(look: _Look, looking: "asyncio.Future[str]") -> str:
    """Return the result of a look, or the reason why it cannot go on."""
    waited_s = 0.0
    while waited_s < _LOCKS_S:
        done, _ = await asyncio.wait({looking}, timeout=_STEP_S)
        if done:
            return looking.result()
        waited_s += _STEP_S if look.waits() else 0.0
    return f"memory: the host cannot read in time what its processes hold; they kept their locks for {_LOCKS_S:g} s"


def objection(roots: Sequence[int], bounds: Bounds) -> str:
    """Return why the REPL must end; "" if it may go on. A REPL that cannot be read must end, too.

    Blocks for a while, longer if a process keeps the lock on its memory map.
    """
    try:
        if not _look(roots, bounds):
            return ""
        time.sleep(_AGAIN_S)
        return _look(roots, bounds)
    except (processes.Restless, processes.Unseen):
        return "memory: its processes start and continue each other too fast for the host to add up what they hold"
    except OSError as error:
        if error.errno in _SHORT_OF:
            logger.warning("what a REPL uses cannot be looked at just now: %s", error)
            return ""
        return f"memory: the host cannot read what its processes hold ({error})"


async def _end(end: Callable[[str], Awaitable[None]], reason: str) -> None:
    """End a REPL. If the host cannot end it now, the next round tries again, and the others are watched on."""
    logger.info("a REPL is ended: %s", reason)
    try:
        await end(reason)
    except (OSError, ReplError) as error:
        logger.warning("a REPL cannot be ended now: %s", error)


@dataclass(frozen=True)
class _Rest:
    """A time without looks. It ends early if the machine's memory shrinks by more than a REPL may take unseen."""

    until: float = 0.0
    """End of the rest, by the monotonic clock."""
    enough_bytes: float = 0.0
    """The rest continues only while the machine has more available memory than this."""

    @classmethod
    def of(cls, rest_s: float, bounds: Bounds) -> Self:
        return cls(time.monotonic() + rest_s, _available_bytes() - bounds.memory_bytes * _UNSEEN)

    def is_over(self, available_bytes: int) -> bool:
        return time.monotonic() >= self.until or available_bytes <= self.enough_bytes


async def _rest(rest_s: float, bounds: Bounds) -> None:
    """Wait for the next round."""
    rest = _Rest.of(rest_s, bounds)
    await asyncio.sleep(INTERVAL_S)
    while not rest.is_over(_available_bytes()):
        await asyncio.sleep(INTERVAL_S)


def _available_bytes() -> int:
    """Return the machine's available memory; 0 if the host cannot read it just now."""
    return processes.machine_bytes("MemAvailable")


def _is_well(roots: Sequence[int], bounds: Bounds) -> bool:
    """Return whether a quick look sees all processes and no excess."""
    try:
        pids = processes.tree(roots)
        held = _in_sockets(pids, bounds) + processes.resident_bytes(pids)
        used = processes.cpu_s_of(pids)
        return held <= bounds.memory_bytes and used <= bounds.cpu_s and _is_whole(pids, roots, bounds)
    except (OSError, processes.Unseen):
        return False


def _look(roots: Sequence[int], bounds: Bounds) -> str:
    """Return the excess that one reading finds, "" for none."""
    with suppress(processes.Unseen):
        pids = processes.tree(roots)
        found = _excess(pids, bounds)
        if found or _is_whole(pids, roots, bounds):
            return found
    with processes.standstill(roots) as pids:
        return _excess(pids, bounds, still=True)


def _is_whole(pids: Sequence[int], roots: Sequence[int], bounds: Bounds) -> bool:
    """Return whether the processes that were looked at are still all there are."""
    return not bounds.whole or processes.tree(roots) == pids


def _in_sockets(pids: Sequence[int], bounds: Bounds) -> int:
    return processes.sockets_of(pids) * bounds.socket_bytes if bounds.socket_bytes else 0


def _excess(pids: Sequence[int], bounds: Bounds, *, still: bool = False) -> str:
    in_sockets = _in_sockets(pids, bounds)
    held = in_sockets + processes.memory_of(pids, enough=bounds.memory_bytes - in_sockets, still=still)
    if held > bounds.memory_bytes:
        counted = f" ({in_sockets >> 20:,} MB of it for its sockets)" if in_sockets >> 20 else ""
        return f"memory: its processes held {held >> 20:,} MB together{counted}, the limit is {bounds.memory_bytes >> 20:,} MB"
    if (used := processes.cpu_s_of(pids)) > bounds.cpu_s:
        return f"time: its processes used {used:,.1f} s of processor time together, the limit is {bounds.cpu_s:g} s"
    return ""
