"""Count what a fault may leave behind, below the process that counts, because other programs of the machine come and go."""

import asyncio
import contextlib
import functools
import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from repl_sessions import value

from lzero.errors import SandboxError
from lzero.repl import LocalRepl, cgroups

INSIDE = """
import os
status = {line.split(":")[0]: line.split(":")[1].strip() for line in open("/proc/self/status")}
os.getpid(), os.getuid() != 0, int(status["CapEff"], 16), status["Seccomp"], status["NoNewPrivs"], os.path.exists("/etc/shadow")
"""
"""Asked in a session: how it is shut in."""
SHUT_IN = "(2, True, 0, '2', '1', False)"


async def output_of_host(code: str) -> str:
    """Run a host that kills itself, and return its output."""
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "TMPDIR": tempfile.gettempdir()}
    host = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert host.returncode == -signal.SIGKILL, host.stderr
    return str(host.stdout)


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Limit this process to so many further descriptors in the block. The limit is on their numbers, and lower ones may be free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def below(process: psutil.Process | None = None) -> list[psutil.Process]:
    """Return the processes that a process has started, and their descendants, without those that have ended."""
    return children_of(process or psutil.Process(), recursive=True)


def dead() -> list[psutil.Process]:
    """Return the processes below this one that have ended and were not reaped."""
    return [process for process in psutil.Process().children(recursive=True) if not alive(process.pid)]


def children_of(process: psutil.Process, *, recursive: bool = False) -> list[psutil.Process]:
    """Return the children, without those that have ended; none if the process itself has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [each for each in process.children(recursive=recursive) if alive(each.pid)]
    return []


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def name_of(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def jails() -> list[psutil.Process]:
    """Return the bubblewrap processes that this one has started."""
    return [process for process in children_of(psutil.Process()) if name_of(process) == "bwrap"]


def zygotes() -> list[psutil.Process]:
    return [zygote for jail in jails() for zygote in children_of(jail)]


def sessions() -> list[psutil.Process]:
    """Return the sessions of all REPLs."""
    return [each for each in _in_namespaces_below_the_zygotes() if not is_init(each)]


def inits() -> list[psutil.Process]:
    """Return the inits of all REPLs."""
    return [each for each in _in_namespaces_below_the_zygotes() if is_init(each)]


def _in_namespaces_below_the_zygotes() -> list[psutil.Process]:
    """Return the zygotes' children, without the makers of copies, which are in the zygotes' namespaces."""
    return [each for zygote in zygotes() for each in children_of(zygote) if num_pids(each) > num_pids(zygote)]


def num_pids(process: psutil.Process) -> int:
    """Return the number of pid namespaces that can see the process; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return len(status.partition("NSpid:")[2].partition("\n")[0].split())


def is_init(process: psutil.Process) -> bool:
    """Return whether a process is the init of a REPL: it becomes another program, while its session stays a fork of the zygote."""
    try:
        return process.cmdline()[-2:] == ["sleep", "infinity"]
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Traces:
    """Traces of faults below this process and in its temporary directory (`own_temporary_directory`)."""

    processes: frozenset[int]
    descriptors: int
    mounts: int
    files: frozenset[str]
    groups: int
    """Control groups that this process has made."""


def traces() -> Traces:
    gc.collect()
    return Traces(
        frozenset(process.pid for process in below()),
        descriptors(),
        len(Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()),
        frozenset(path.name for path in Path(tempfile.gettempdir()).iterdir()),
        sum(len(list(place.glob(f"lzero-{os.getpid()}-*"))) for place in group_places()),
    )


def descriptors() -> int:
    """Count the open descriptors. A watchdog's thread may read a file of /proc at any moment: wait a second for it to close that."""
    deadline = time.monotonic() + 1.0
    while True:
        opened = open_files()
        if not any(path.startswith(("/proc/", "/sys/")) for path in opened) or time.monotonic() > deadline:
            return len(opened)
        time.sleep(0.001)


def open_files() -> list[str]:
    """Return what each open descriptor leads to, without the one that reads this list."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


@functools.cache
def group_places() -> tuple[Path, ...]:
    """Return the directories in which control groups are made; none if this machine does not allow it."""
    try:
        return tuple(cgroups.find().places.values())
    except SandboxError:
        return ()


def counts() -> tuple[int, ...]:
    """Traces where processes may be others than before: as many of them, of descriptors, mounts and files. Control groups that
    were not empty in time wait for the next one to be made, so they are no part of it."""
    found = traces()
    return len(found.processes), found.descriptors, found.mounts, len(found.files)


async def at_rest() -> tuple[int, ...]:
    """Return the counts while nothing happens: the least of a few looks, because a process may end at any moment."""
    looks = []
    for _ in range(10):
        looks.append(counts())
        await asyncio.sleep(0.005)
    return tuple(map(min, zip(*looks, strict=True)))


async def settled(most: tuple[int, ...]) -> None:
    """Wait until there is no more than `most`, and no dead process that was not reaped; fail if that does not come."""

    def no_more() -> bool:
        return all(now <= then for now, then in zip(counts(), most, strict=True))

    with contextlib.suppress(AssertionError):
        await until(lambda: no_more() and not dead())
    assert no_more(), f"{counts()} where {most} were before: {below()}"
    assert dead() == [], "dead, and reaped by nobody"


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)  # a look at all processes takes nearly as long


async def works(repl: LocalRepl) -> bool:
    return await value(repl, "6 * 7") == "42"
