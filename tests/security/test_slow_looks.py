"""REPLs that hold up the host as it looks at them, or as it ends them: nobody else notices."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest
from cases import attack
from fault_traces import descriptors_left
from repl_sessions import no_tools, value

from lzero.config import ReplConfig
from lzero.errors import SandboxError
from lzero.repl import LocalPool, processes, session, watchdog

pytestmark = pytest.mark.sandbox
NOTHING = watchdog.Bounds(memory_bytes=0, cpu_s=1e9, lifetime_s=1e9)
DEADLINE_S = 60.0
PLAIN = "print(flush=True); input()"
"""A program that waits for its end."""
HOLDER = """
import ctypes, mmap, os
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
size, none, no_reserve, no_huge_pages, populate = 1 << 30, 0, 0x4000, 15, 22
private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
memory = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ, private, -1, ctypes.c_long(0)))
for advice in (no_huge_pages, populate):
    assert libc.madvise(memory, ctypes.c_size_t(size), advice) == 0
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
for _ in range(8):
    if os.fork() == 0:
        libc.prctl(1, 9)  # it dies with its parent
        while True: pass
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
print("ready", flush=True)
while True:
    for protection in (none, mmap.PROT_READ):
        libc.mprotect(memory, ctypes.c_size_t(size), protection)
"""
"""A process that nearly always has the lock on its memory map, and hardly ever a processor to give it back. It maps one page very
often, which takes time and no memory."""


class Watched:
    """Processes of a test, as the watchdog knows a REPL."""

    def __init__(self, *host_pids: int, lasts: asyncio.Event | None = None) -> None:
        self._host_pids = host_pids
        self.opened = time.monotonic()
        self.seen = asyncio.Event()
        """Set by the first look."""
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """The reason for its end, once it has ended."""
        self._lasts = lasts

    @property
    def host_pids(self) -> Sequence[int]:
        return self._host_pids

    def objection(self) -> str:
        self.seen.set()
        return ""

    async def kill(self, reason: str) -> None:
        if not self.reason.done():
            self.reason.set_result(reason)
        kill(self._host_pids)
        if self._lasts:
            await self._lasts.wait()

    async def expire(self, reason: str) -> None:
        await self.kill(reason)


def kill(roots: Sequence[int]) -> None:
    for pid in processes.tree(roots):
        with suppress(ProcessLookupError):
            with suppress(PermissionError):  # an ordinary user's end later
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
            os.kill(pid, signal.SIGKILL)


@contextmanager
def running(code: str) -> Iterator[int]:
    """Yield the pid of a Python program, after it has printed a line to show that it is ready."""
    with subprocess.Popen([sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            kill([process.pid])


@asynccontextmanager
async def watching(repls: list[Watched]) -> AsyncIterator[None]:
    task = asyncio.create_task(watchdog.watch(lambda: repls, NOTHING))
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def stuck_look(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Watched, list[Watched]]]:
    """Yield a REPL that is not watched yet, and the list of those that are: one, whose look waits, and is ended when the block is left."""
    monkeypatch.setattr(watchdog, "_LOCKS_S", 1e9)
    monkeypatch.setattr(watchdog, "_STEP_S", 0.02)
    with running(HOLDER) as holder, running(PLAIN) as plain:
        stuck, other = Watched(holder), Watched(plain)
        async with watching(repls := [stuck]):
            await stuck.seen.wait()
            yield other, repls
            monkeypatch.setattr(watchdog, "_LOCKS_S", 0.1)
            # Now and then a look gets the lock after all, and finds what it looked for.
            late, found = "memory: the host cannot read in time what its processes hold", "memory: its processes held"
            assert (await stuck.reason).startswith((late, found))


@attack(101)
async def test_a_process_that_keeps_its_lock_holds_up_no_other_look(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stuck_look(monkeypatch) as (other, repls):
        repls.append(other)
        assert (await other.reason).startswith("memory: its processes held")


@attack(101)
async def test_an_end_that_takes_long_holds_up_no_other_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_THREADS", 1)
    with running(PLAIN) as one, running(PLAIN) as two:
        slow, other = Watched(one, lasts=asyncio.Event()), Watched(two)
        async with watching(repls := [slow]):
            await slow.reason
            repls.append(other)
            await other.reason


class Broken(Watched):
    """Its second look, the thorough one, meets a fault of the host's own."""

    @property
    def host_pids(self) -> Sequence[int]:
        if self._asked:
            raise ValueError("a fault")
        self._asked = True
        return super().host_pids

    _asked = False


async def test_a_look_that_fails_ends_the_watchdog_without_which_no_repl_is_opened() -> None:
    with running(PLAIN) as plain:
        repls = [Broken(plain)]
        task = asyncio.create_task(watchdog.watch(lambda: repls, NOTHING))
        watchdog.require(task)
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(ExceptionGroup) as failed:
                await task
    assert failed.group_contains(ValueError, match="a fault")
    with pytest.raises(SandboxError, match="the watchdog on the memory of REPLs failed: ExceptionGroup"):
        watchdog.require(task)


@attack(101)
async def test_a_session_that_ends_slowly_takes_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_KILL_TIMEOUT_S", 0.0)
    async with LocalPool(ReplConfig(zygotes=1)) as pool:
        *slow, other = [await pool.open((), no_tools, seed=number) for number in range(4)]
        for repl in slow:
            await repl.close()
        assert await value(other, "6 * 7") == "42"


@attack(101)
async def test_a_host_without_descriptors_goes_on_with_a_look_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stuck_look(monkeypatch) as (other, repls):
        with descriptors_left(0):
            repls.append(other)
            for _ in range(2):  # rounds, between which the look at the first one goes on
                await other.seen.wait()
                other.seen.clear()


class Endless(Watched):
    """The host has no descriptor for what it takes to end it."""

    async def kill(self, reason: str) -> None:
        self.reason.cancel()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@attack(101)
async def test_an_end_that_fails_leaves_the_others_watched() -> None:
    with running(PLAIN) as one, running(PLAIN) as two:
        endless, other = Endless(one), Watched(two)
        repls: list[Watched] = [endless]
        async with watching(repls):
            await asyncio.wait({endless.reason})
            repls.append(other)
            await other.reason
