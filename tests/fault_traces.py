"""What a fault could leave behind, and what tests of faults ask of a pool.

Everything is counted below the process that asks: other programs of the machine come and go meanwhile.
"""

import asyncio
import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from repl_sessions import value

from lzero.repl import LocalRepl

INSIDE = """
import os
status = {line.split(":")[0]: line.split(":")[1].strip() for line in open("/proc/self/status")}
os.getpid(), os.getuid() != 0, int(status["CapEff"], 16), status["Seccomp"], status["NoNewPrivs"], os.path.exists("/etc/passwd")
"""
"""Asked in a session: how it is shut in."""
SHUT_IN = "(1, True, 0, '2', '1', False)"


def below(process: psutil.Process | None = None) -> list[psutil.Process]:
    """Processes that a process has started, and theirs, without those that have ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [each for each in (process or psutil.Process()).children(recursive=True) if alive(each.pid)]
    return []


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def jails() -> list[psutil.Process]:
    """The bubblewrap processes that this one has started."""
    return [process for process in psutil.Process().children() if process.name() == "bwrap" and alive(process.pid)]


def zygotes() -> list[psutil.Process]:
    return [zygote for jail in jails() for zygote in jail.children()]


def sessions() -> list[psutil.Process]:
    """The first processes of all REPLs."""
    return [process for zygote in zygotes() for process in zygote.children() if alive(process.pid)]


@dataclass(frozen=True)
class Traces:
    """What a fault could leave behind, below this process and in its temporary directory (`own_temporary_directory`)."""

    processes: frozenset[int]
    descriptors: int
    mounts: int
    files: frozenset[str]


def traces() -> Traces:
    gc.collect()
    return Traces(
        frozenset(process.pid for process in below()),
        len(os.listdir("/proc/self/fd")),
        len(Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()),
        frozenset(path.name for path in Path(tempfile.gettempdir()).iterdir()),
    )


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0)


async def works(repl: LocalRepl) -> bool:
    return await value(repl, "6 * 7") == "42"
