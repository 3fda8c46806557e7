"""Locks on files: the kernel limits no number of them, and counts their memory in no control group."""

import asyncio
import errno
import os
import re
from pathlib import Path

import pytest
from cases import attack
from repl_sessions import no_tools, run, value
from syscalls import answers

from lzero.config import ReplConfig
from lzero.repl import LocalPool, LocalRepl, locks, watchdog

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]
X86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the test are those of x86-64")
LOCK = """
import fcntl, time
file = open("locked", "w")
for at in range(0, 2 * {number}, 2):
    fcntl.lockf(file, fcntl.LOCK_EX, 1, at)
"""


@attack(106)
async def test_a_session_that_holds_locks_without_number_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GROWTH_BYTES", -(1 << 50))  # they are counted in each round
    async with LocalPool(ReplConfig(zygotes=1)) as pool:
        honest, hostile = [await pool.open((), no_tools, seed=number) for number in range(2)]
        assert (await run(honest, LOCK.format(number=100))).status == "ok"
        execution = await hostile.run(LOCK.format(number=10_000) + "time.sleep(60)", deadline_s=50.0)
        assert re.fullmatch(
            r"memory: its processes held [\d,]+ locks on files, of which 256 are allowed", execution.reason
        )
        assert await value(honest, "6 * 7") == "42"


@attack(106)
async def test_a_lock_counts_once_even_if_it_is_listed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A session that locks files while the host reads the list pushes the locks of others back."""
    (tmp_path / "locks").write_text(
        "1: POSIX  ADVISORY  WRITE 12 fd:00:7 0 0\n"
        "2: POSIX  ADVISORY  READ 12 fd:00:7 2 EOF\n"
        "2: -> POSIX  ADVISORY  WRITE 14 fd:00:7 2 2\n"
        "3: FLOCK  ADVISORY  WRITE 12 fd:00:8 0 EOF\n"
        "4: POSIX  ADVISORY  WRITE 12 fd:00:7 0 0\n"
        "5: POSIX  ADVISORY  WRITE 13 fd:00:7 4 4\n"
        "6: POSIX  ADVIS"
    )
    monkeypatch.setattr(locks, "_PLACE", tmp_path / "locks")
    assert locks.held() == {12: 2, 13: 1}


@attack(106)
async def test_locks_are_counted_once_the_kernels_own_memory_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    megabytes = iter((100, 115, 116, 117, 132, 133, 90, 105, 106))
    monkeypatch.setattr(locks, "machine_bytes", lambda _: next(megabytes) << 20)
    occasions = locks.Occasions()
    assert [occasions.is_due() for _ in range(3)] == [False, True, True]  # the first count failed
    occasions.counted()
    assert [occasions.is_due() for _ in range(5)] == [False, True, False, False, True]


@attack(106)
async def test_locks_are_counted_while_a_look_at_the_session_is_under_way(pool: LocalPool) -> None:
    busy = await pool.open((), no_tools, seed=0)
    assert (await run(busy, LOCK.format(number=300))).status == "ok"
    watching = watchdog._Watchdog(watchdog.Bounds.of(ReplConfig(), 1 << 30))
    async with asyncio.TaskGroup() as tasks:
        watching._busy.add(busy)
        await watching._count_locks([busy], tasks)
    assert (await busy.run("1", deadline_s=20.0)).reason.startswith("memory: its processes held 300 locks")
    await busy.close()


@X86_64
@attack(106)
async def test_every_lock_has_the_pid_of_a_living_process(repl: LocalRepl, open_repl: LocalRepl) -> None:
    """Neither a lock of a descriptor, nor one of a table of descriptors that processes share."""
    code = """
import fcntl
file = os.open("locked", os.O_RDWR | os.O_CREAT)
whole = ctypes.create_string_buffer(32)
def with_descriptors_in_common():
    pid = libc.syscall(56, 0x400 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return 0 if pid > 0 else ctypes.get_errno()
[attempt(fcntl.fcntl, file, command, whole) for command in (37, 38)] + [with_descriptors_in_common()]"""
    assert await answers(open_repl, code) == [0, 0, 0]
    assert await answers(repl, code) == [errno.EINVAL, errno.EINVAL, errno.EPERM]


@attack(106)
async def test_locks_and_the_processes_of_programs_work(repl: LocalRepl) -> None:
    code = """
import fcntl, sqlite3, subprocess, threading
with sqlite3.connect("a.db") as base:
    base.execute("create table t (x)")
file = open("b", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
fcntl.flock(file, fcntl.LOCK_EX)
done = []
thread = threading.Thread(target=done.append, args=(1,))
thread.start(); thread.join()
done + [subprocess.run(["sh", "-c", "true | cat"]).returncode]"""
    assert await value(repl, code) == "[1, 0]"


@attack(106)
async def test_no_session_reads_the_list_of_all_locks(repl: LocalRepl) -> None:
    """While it is read, nobody on the machine can lock a file."""
    assert await value(repl, "import os\nos.path.samefile('/proc/locks', '/dev/null')") == "True"
