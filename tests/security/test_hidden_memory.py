"""Memory that the resident sets of a session's processes do not show, where no control group bounds it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from cases import attack
from repl_sessions import no_tools, value

from lzero.config import ReplConfig
from lzero.repl import LocalPool, processes, watchdog
from lzero.repl.jail import Limits
from lzero.types import Execution

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]
LIMITS = Limits(memory_bytes=96 << 20)
WAIT = "\nimport time\ntime.sleep(60)"
HOPPERS = """
import mmap, os
def fork():
    while True:
        try:
            return os.fork()
        except BlockingIOError:  # as many as there may be have not ended yet
            pass
def hop(mb):
    if fork():
        return
    os.setsid()
    held = mmap.mmap(-1, mb << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, mb << 20, mmap.PAGESIZE):
        held[at] = 1
        if at % (1 << 20) == 0 and fork():
            os._exit(0)
    while True:
        if fork():
            os._exit(0)
for _ in range(6):
    hop(40)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LocalPool]:
    async with LocalPool(ReplConfig(cgroups="off"), limits=LIMITS) as pool:
        yield pool


async def in_one_of(pool: LocalPool, code: str, *, beside: str = "6 * 7") -> Execution:
    """Run a cell in a REPL of its own, while another one works."""
    repl, sibling = [await pool.open((), no_tools, seed=number) for number in range(2)]
    execution = await repl.run(code, deadline_s=50.0)
    assert await value(sibling, beside) == "42"
    for each in (repl, sibling):
        await each.close()
    return execution


def is_killed_for_memory(execution: Execution) -> bool:
    return (execution.status, execution.reason.partition(":")[0]) == ("killed", "memory")


@attack(73)
async def test_processes_that_come_and_go_are_counted(pool: LocalPool) -> None:
    assert is_killed_for_memory(await in_one_of(pool, HOPPERS + WAIT))


@attack(73)
async def test_a_first_thread_that_has_ended_hides_no_memory(pool: LocalPool) -> None:
    code = """
import ctypes, os, threading
def hold():
    held = bytearray(b"x") * (60 << 20)
    time.sleep(60)
import time
for _ in range(2):
    if os.fork() == 0:
        threading.Thread(target=hold).start()
        ctypes.CDLL(None).pthread_exit(None)
"""
    assert is_killed_for_memory(await in_one_of(pool, code + WAIT))


async def test_programs_started_one_after_the_other_go_on_while_they_are_looked_at(
    pool: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[int] = []
    stop = processes._stop

    def stop_and_tell(pid: int, stopped: dict[int, int], *, family: Sequence[int], roots: Sequence[int]) -> None:
        stops.append(pid)
        stop(pid, stopped, family=family, roots=roots)

    monkeypatch.setattr(processes, "_stop", stop_and_tell)
    monkeypatch.setattr(watchdog, "INTERVAL_S", 0.0)
    code = """
import multiprocessing, subprocess
def double(number): return 2 * number
codes = {subprocess.run(["sh", "-c", "sleep 0.002 | cat; true"]).returncode for _ in range(40)}
with multiprocessing.get_context("fork").Pool(4) as workers:
    doubled = workers.map(double, range(100))
codes == {0} and doubled == [2 * number for number in range(100)]
"""
    repl = await pool.open((), no_tools, seed=0)
    assert await value(repl, code) == "True"
    assert stops  # it was stopped at times, and did not notice
    await repl.close()


@attack(73)
async def test_processes_that_come_and_go_stand_still_as_a_whole_and_go_on(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    cell = asyncio.create_task(repl.run(HOPPERS.replace("hop(40)", "hop(1)") + WAIT, deadline_s=50.0))
    async with asyncio.timeout(40.0):
        while len(processes.tree(repl.host_pids)) < 5:
            await asyncio.sleep(0)
        for _ in range(3):
            async with processes.standstill(repl.host_pids) as pids:
                assert len(pids) > 2
                assert set(processes.tree(repl.host_pids)) <= set(pids)
            while processes.tree(repl.host_pids) == pids:
                await asyncio.sleep(0)
    await repl.close()
    assert (await cell).status == "killed"


@attack(73)
async def test_processes_that_do_not_stand_still_end(pool: LocalPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_ROUNDS", 0)
    execution = await in_one_of(pool, HOPPERS + WAIT)
    assert execution.reason.startswith("memory: its processes start and continue each other too fast")


async def test_a_process_that_was_stopped_before_stays_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        async with processes.standstill([process.pid]) as pids:
            assert pids == [process.pid]
        assert b"State:\tT" in Path(f"/proc/{process.pid}/status").read_bytes()
        process.kill()


SOCKETS = """
import os, socket
held = []
def fill(end):
    end.setblocking(False)
    try:
        while True:
            end.send(bytes(1 << 16))
    except BlockingIOError:
        return end
"""


@attack(74)
@pytest.mark.parametrize(
    "code",
    [
        "held += [fill(end) for _ in range(120) for end in socket.socketpair()]",
        # Nobody has accepted these connections, and who made them has closed its end.
        """
listener = socket.socket(socket.AF_UNIX)
listener.bind("here")
listener.listen(1000)
for _ in range(200):
    caller = socket.socket(socket.AF_UNIX)
    caller.connect("here")
    fill(caller).close()
""",
        # These were sent, and nobody has received them.
        """
ends = socket.socketpair()
for _ in range(120):
    one, other = socket.socketpair()
    socket.send_fds(ends[0], [b"."], [fill(one).fileno(), fill(other).fileno()])
    one.close(), other.close()
""",
    ],
    ids=["held", "not accepted", "not received"],
)
async def test_bytes_in_sockets_are_counted(pool: LocalPool, code: str) -> None:
    execution = await in_one_of(pool, SOCKETS + code + WAIT)
    assert is_killed_for_memory(execution)
    assert "for its sockets" in execution.reason


async def test_a_server_and_its_clients_work(pool: LocalPool) -> None:
    code = """
import asyncio
async def answer(reader, writer):
    writer.write(await reader.readexactly(100_000))
    await writer.drain()
    writer.close()
async def ask():
    reader, writer = await asyncio.open_unix_connection("server")
    writer.write(bytes(100_000))
    answered = await reader.readexactly(100_000)
    writer.close()
    return len(answered)
server = await asyncio.start_unix_server(answer, "server")
sum(await asyncio.gather(*(ask() for _ in range(20))))
"""
    assert await value(await pool.open((), no_tools, seed=0), code) == "2000000"
