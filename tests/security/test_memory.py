"""Memory of all processes of a session together: what no limit of a single process bounds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio
from cases import attack
from repl_sessions import no_tools, run, value

from lzero.repl import LocalPool, LocalRepl, processes
from lzero.repl.jail import Limits

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]
LIMITS = Limits(memory_bytes=256 << 20)
HOARD = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        held = bytearray(100 << 20)
        time.sleep(60)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small_pool() -> AsyncIterator[LocalPool]:
    async with LocalPool(limits=LIMITS) as pool:
        yield pool


@attack(4)
async def test_processes_that_hold_too_much_together_are_killed(small_pool: LocalPool) -> None:
    hoarder, sibling = [await small_pool.open((), no_tools, seed=number) for number in range(2)]
    execution = await hoarder.run(HOARD + "time.sleep(60)", deadline_s=50.0)
    assert execution.status == "killed"
    # The reason is the watchdog's or the kernel's, whichever is faster.
    assert execution.reason.startswith("memory: its processes ")
    assert "256 MB" in execution.reason or "512 MB" in execution.reason
    assert await value(sibling, "6 * 7") == "42"
    await hoarder.close()
    await sibling.close()


@attack(4)
async def test_what_a_cell_leaves_behind_is_counted_too(small_pool: LocalPool) -> None:
    repl = await small_pool.open((), no_tools, seed=0)
    pid, _ = repl.host_pids
    assert (await run(repl, HOARD)).status == "ok"
    async with asyncio.timeout(50):
        seen = 1
        while seen:
            with suppress(processes.Unseen):  # some end between two looks
                seen = processes.memory_of([pid], enough=0)
            await asyncio.sleep(0.05)
    execution = await run(repl, "1")
    assert (execution.status, execution.reason.partition(":")[0]) == ("killed", "memory")
    await repl.close()


@attack(5)
async def test_memory_that_belongs_to_no_process_cannot_be_had(repl: LocalRepl, open_repl: LocalRepl) -> None:
    make = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def memfd():
    try:
        return os.memfd_create("hoard") >= 0
    except OSError:
        return False
memfd(), libc.shmget(0, 1 << 20, 0o1600) >= 0
"""
    assert await value(open_repl, make) == "(True, True)"
    assert await value(repl, make) == "(False, False)"


@pytest.mark.asyncio(loop_scope="function")  # in which no other pool of the module is looked after
@attack(4)
async def test_a_session_that_the_host_cannot_look_at_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalPool() as pool:
        repl = await pool.open((), no_tools, seed=0)
        monkeypatch.setattr(processes, "_PROC", "/dev/null")
        execution = await repl.run("import time\ntime.sleep(60)", deadline_s=30.0)
        monkeypatch.undo()
        assert execution.status == "killed"
        assert execution.reason.startswith("memory: the host cannot read what its processes hold")
        other = await pool.open((), no_tools, seed=0)  # the watchdog goes on, and so does the pool
        assert await value(other, "6 * 7") == "42"
        await repl.close()
        await other.close()
