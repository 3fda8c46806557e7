"""Faults that a pool survives: stopped sessions, clocks that jump, no descriptors or pids left, late words of the dead."""

import ast
import asyncio
import os
import subprocess
import time

import pytest
from cases import attack
from fault_traces import alive, descriptors_left, sessions, traces, works, zygotes
from repl_sessions import Spec, no_tools, value

from lzero.errors import ReplError, SandboxError
from lzero.repl import LocalPool
from lzero.types import Json

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("own_temporary_directory"),
]


@attack(65)
async def test_the_deadline_of_a_stopped_session_holds(pool: LocalPool) -> None:
    other = await pool.open((), no_tools, seed=0)
    known = {process.pid for process in sessions()}
    stopped = await pool.open((), no_tools, seed=0)
    (process,) = [process for process in sessions() if process.pid not in known]
    started = time.monotonic()
    running = asyncio.create_task(stopped.run("while True: pass", deadline_s=0.5))
    await asyncio.sleep(0)
    process.suspend()
    assert await works(other)
    execution = await running
    assert (execution.status, "deadline" in execution.reason) == ("killed", True)
    assert time.monotonic() - started < 8.0
    await stopped.close()
    # One that is stopped between its cells is no different, and one that goes on in time has lost nothing.
    idle = await pool.open((), no_tools, seed=0)
    (process,) = [process for process in sessions() if process.pid not in known]
    process.suspend()
    running = asyncio.create_task(idle.run("6 * 7", deadline_s=20.0))
    await asyncio.sleep(0)
    process.resume()
    assert (await running).status == "ok"
    process.suspend()
    await idle.close()
    assert not alive(process.pid)
    await other.close()


@attack(65)
async def test_a_clock_that_jumps_moves_no_deadline(pool: LocalPool, monkeypatch: pytest.MonkeyPatch) -> None:
    repl = await pool.open((), no_tools, seed=0)
    real, days = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + 86_400 * (-1) ** next(days))
    execution = await repl.run("while True: pass", deadline_s=0.3)
    assert execution.status == "timed_out"
    assert 0.3 <= execution.duration_s < 8.0
    assert await works(repl)
    await repl.close()


@attack(67)
async def test_without_descriptors_nothing_starts_and_the_others_go_on(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    before = traces()
    refused = 0
    for left in range(10):
        with descriptors_left(left):
            other = LocalPool()
            for start in (pool.open((), no_tools, seed=0), other.start()):
                try:
                    opened = await asyncio.wait_for(start, 60.0)
                except ReplError:
                    refused += 1
                else:
                    if opened is not None:
                        await opened.close()
            await other.close()
            assert await works(repl)
        assert traces() == before, left
    assert refused >= 4
    with descriptors_left(0):  # while the watchdog looks, and cannot
        assert (await repl.run("import time\ntime.sleep(1)", deadline_s=30.0)).status == "ok"
    fresh = await pool.open((), no_tools, seed=0)
    for each in (repl, fresh):
        assert await works(each)
        await each.close()


def limit_processes(pid: int, limit: str) -> list[str]:
    """Set a zygote's limit on processes, as its own user; return the earlier limits, soft and hard."""
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.geteuid() == 0 else ()
    show = (*user, "prlimit", f"--pid={pid}", "--nproc", "--raw", "--noheadings", "--output=SOFT,HARD")
    before = subprocess.run(show, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    subprocess.run((*user, "prlimit", f"--pid={pid}", f"--nproc={limit}"), timeout=20, check=True)
    return before


@attack(67)
async def test_without_pids_nothing_starts_and_the_others_go_on(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    (zygote,) = (process.pid for process in zygotes())
    before = traces()
    soft, _ = limit_processes(zygote, "0:")  # the zygote's own limit: it is refused as by a machine that is full
    for _ in range(50):
        with pytest.raises(SandboxError, match="fork"):
            await pool.open((), no_tools, seed=0)
    assert await works(repl)
    assert traces() == before
    limit_processes(zygote, f"{soft}:")
    fresh = await pool.open((), no_tools, seed=0)
    assert pool.stats()["zygotes"] == 1
    for each in (repl, fresh):
        assert await works(each)
        await each.close()


@attack(70)
async def test_two_forks_draw_the_same_only_where_they_are_seeded(pool: LocalPool) -> None:
    seeded = "import random, numpy\nrandom.random(), float(numpy.random.rand()), hash('x'), [random.randrange(9) for _ in 'abc']"
    fresh = """
import os, random, secrets, ssl, tempfile, uuid, numpy
[os.urandom(8).hex(), secrets.token_hex(8), str(uuid.uuid4()), random.SystemRandom().random(), random.Random().random(),
 float(numpy.random.default_rng().random()), ssl.RAND_bytes(8).hex(), os.path.basename(tempfile.mkdtemp())]
"""
    repls = [await pool.open((), no_tools, seed=seed) for seed in (5, 5, 6)]
    same = [await value(repl, seeded) for repl in repls]
    assert same[0] == same[1] != same[2]
    drawn: list[list[object]] = [ast.literal_eval(await value(repl, fresh)) for repl in repls]
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == 3, values
    for repl in repls:
        await repl.close()


@attack(72)
async def test_a_late_word_of_a_dead_session_reaches_nobody(pool: LocalPool) -> None:
    chatter = """
import json, os, socket, struct, threading
wire = socket.socket(fileno=3)
def talk():
    shown = [{"output_type": "stream", "name": "stdout", "text": "late"}]
    for number in range(2, 1000):
        body = json.dumps({"type": "done", "id": number, "status": "ok", "outputs": shown}).encode()
        wire.sendall(struct.pack(">I", len(body)) + body)
if os.fork() == 0:
    talk()
    os._exit(0)
os.wait()
"""
    before = pool.stats()["open"]
    for number in range(12):
        dying = await pool.open((), no_tools, seed=number)
        await dying.run(chatter, deadline_s=1.0)
        await dying.close()
        following = await pool.open((), no_tools, seed=number)  # on the descriptor that has just become free
        for cell in range(3):
            assert await value(following, f"{cell}") == str(cell)
        await following.close()
    assert pool.stats()["open"] == before


@attack(72)
async def test_a_session_that_is_closed_in_the_middle_of_a_cell_lets_go_of_its_descriptor(pool: LocalPool) -> None:
    for _ in range(5):
        dying = await pool.open((), no_tools, seed=0)
        running = asyncio.create_task(dying.run("import time\ntime.sleep(60)", deadline_s=60.0))
        await asyncio.sleep(0)
        await dying.close()
        following = await pool.open((), no_tools, seed=0)
        assert await works(following)
        execution = await asyncio.wait_for(running, 20.0)
        assert (execution.status, execution.outputs) == ("killed", ())
        assert await works(following)
        await following.close()


@attack(72)
async def test_a_late_answer_of_a_tool_reaches_nobody(pool: LocalPool) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(name: str, arguments: dict[str, Json]) -> Json:
        asked.set()
        await answer.wait()
        return "late"

    async def quick(name: str, arguments: dict[str, Json]) -> Json:
        return "mine"

    spec = Spec("search", ("query",))
    dying = await pool.open([spec], slow, seed=0)
    running = asyncio.create_task(dying.run("search('x')", deadline_s=20.0))
    await asked.wait()
    await dying.close()
    following = await pool.open([spec], quick, seed=0)
    answer.set()
    assert [await value(following, "search('x')") for _ in range(3)] == ["'mine'"] * 3
    execution = await asyncio.wait_for(running, 20.0)
    assert (execution.status, execution.outputs) == ("killed", ())
    await following.close()
