"""The figures of `benchmarks/repl.py`: one function each, which measures and says how far it should reach."""

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import repl_yardstick
from figures import Figure, at_least, at_most

from lzero.protocols import Repl, ReplPool
from lzero.repl import LocalPool, LocalRepl, processes
from lzero.repl.remote.pool import RemotePool
from lzero.repl.remote.settings import new_token
from lzero.types import Json

CELL = repl_yardstick.CELL


@dataclass(frozen=True)
class Settings:
    sessions: int
    """Of the measurements of one session after the other."""
    live: int
    """Sessions that live at once."""
    killed: int
    yardsticks: int
    """Starts of the yardstick."""


async def start_and_round_trip(settings: Settings) -> list[Figure]:
    """Start to first result, and a trivial cell's round trip; the yardstick's in between, so that both meet the same machine."""
    firsts: list[float] = []
    trips: list[float] = []
    its_firsts: list[float] = []
    blind_firsts: list[float] = []
    its_trips: list[float] = []
    async with LocalPool() as pool:
        await session(pool)
        for _ in range(settings.yardsticks):
            firsts += [await first_result_s(pool) for _ in range(settings.sessions // settings.yardsticks)]
            trips += await round_trips_s(pool, 100)
            its_first, times = await repl_yardstick.session(20, wait=True)
            its_firsts.append(its_first)
            its_trips += times
            blind_first, _ = await repl_yardstick.session(0, wait=False)
            blind_firsts.append(blind_first)
    first, its_first, blind_first = map(statistics.median, (firsts, its_firsts, blind_firsts))
    trip, its_trip = map(statistics.median, (trips, its_trips))
    return [
        at_most("start to first result, p50", 1000 * first, "ms", 20),
        Figure("  of the yardstick", 1000 * its_first, "ms"),
        at_least("  the yardstick's is longer by", its_first / first, "×", 40),
        Figure("  of the yardstick that is not waited for", 1000 * blind_first, "ms"),
        Figure("  that one's is longer by", blind_first / first, "×"),
        Figure("trivial cell round trip, p50", 1000 * trip, "ms"),
        Figure("  of the yardstick", 1000 * its_trip, "ms"),
        at_least("  the yardstick's is longer by", its_trip / trip, "×", 12),
    ]


async def live_at_once(settings: Settings) -> list[Figure]:
    """Sessions with numpy and pandas, open at once: what each holds for itself, and all of them together."""
    async with LocalPool() as pool:
        await session(pool)
        free = psutil.virtual_memory().available
        repls = await open_many(pool, settings.live)
        await asyncio.gather(*(answers(repl, "import numpy, pandas") for repl in repls))
        own = statistics.mean(private_bytes(repl) for repl in repls)
        started = time.perf_counter()
        await asyncio.gather(*(answers(repl, CELL) for repl in repls))
        answered = time.perf_counter() - started
        together = sum(
            processes.memory_of([process.pid], enough=0) for process in psutil.Process().children(recursive=True)
        )
        taken = free - psutil.virtual_memory().available
    each = max(together, taken) / settings.live
    return [
        at_most(f"private memory of an idle REPL, mean of {settings.live}", own / 2**20, "MB", 4),
        Figure(f"{settings.live} live REPLs and their zygotes, proportional memory", together / 2**30, "GiB"),
        Figure("  what the machine had less of, the kernel's part included", taken / 2**30, "GiB"),
        Figure("  each answers a cell, all at once, within", answered, "s"),
        at_least(f"live at once in 24 GiB, by what {settings.live} take", (24 << 30) / each, "", 1000),
    ]


async def opened_per_second(settings: Settings) -> list[Figure]:
    """Open, one cell, close, without a pause; processor time is that of host, zygotes and sessions."""
    async with LocalPool() as pool:
        await asyncio.gather(*(session(pool) for _ in range(16)))  # a zygote per core is there
        before, started = cpu_s(), time.perf_counter()
        todo = iter(range(4 * settings.sessions))
        await asyncio.gather(*(worker(pool, todo) for _ in range(8)))
        wall, cpu = time.perf_counter() - started, cpu_s() - before
    opened = 4 * settings.sessions
    return [
        at_least(f"opened per second ({opened}: open, one cell, close)", opened / wall, "/s", 60),
        Figure("  processor time of one", 1000 * cpu / opened, "ms"),
    ]


async def killed_and_reaped(settings: Settings) -> list[Figure]:
    """Sessions closed all at once, and sessions ended with their pool; over when no process is left."""
    pool = LocalPool()
    await pool.start()
    try:
        repls = await open_many(pool, settings.killed)
        started = time.perf_counter()
        await asyncio.gather(*(repl.close() for repl in repls))
        closed = time.perf_counter() - started
        repls = await open_many(pool, settings.killed)
        pids = [pid for repl in repls for pid in repl.host_pids]
        started = time.perf_counter()
    finally:
        await pool.close()
    ended = time.perf_counter() - started
    assert not any(psutil.pid_exists(pid) for pid in pids)
    return [
        at_most(f"{settings.killed} closed at once, and reaped", closed, "s", 2),
        at_most(f"{settings.killed} ended with their pool, and reaped", ended, "s", 2),
    ]


async def remote_round_trip(settings: Settings) -> list[Figure]:
    """A trivial cell's round trip through `lzero pool serve` on loopback, in turns with that of a local pool."""
    token = new_token()
    command = (sys.executable, "-c", "from lzero.cli import main; main()", "pool", "serve", "--port=0")
    server = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, env={**os.environ, "LZERO_POOL_TOKEN": token}
    )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(120.0):
            url = (await server.stdout.readline()).decode().split()[3]
        async with LocalPool() as near, RemotePool((url,), token=token) as far:
            rounds = [(await round_trips_s(near, 50), await round_trips_s(far, 50)) for _ in range(10)]
    finally:
        server.terminate()
        await server.wait()
    local = statistics.median(trip for near_trips, _ in rounds for trip in near_trips)
    remote = statistics.median(trip for _, far_trips in rounds for trip in far_trips)
    return [
        Figure("trivial cell round trip in a remote pool on loopback, p50", 1000 * remote, "ms"),
        Figure("  of the local pool", 1000 * local, "ms"),
        at_most("  the remote one is longer by", remote / local, "×", 2),
    ]


async def copies(settings: Settings) -> list[Figure]:
    """`fork()` of a REPL that holds a 10 MB DataFrame and 20 files; and opening one in between, for comparison."""
    held = "import numpy, pandas\nframe = pandas.DataFrame({'x': numpy.random.rand(1_310_720)})\n"
    held += "for n in range(20): open(f'{n}.txt', 'w').write('x' * 1000)"
    taken: list[float] = []
    opened: list[float] = []
    async with LocalPool() as pool:
        for _ in range(max(3, settings.sessions // 20)):
            original = await pool.open((), no_tools, seed=0)  # a fresh one: a line of copies has an end
            await answers(original, held)
            for _ in range(4):
                started = time.perf_counter()
                copy = await original.fork(no_tools, seed=1)
                taken.append(time.perf_counter() - started)
                await answers(copy, "assert len(frame) == 1_310_720 and open('19.txt').read()")
                private = private_bytes(copy)
                await copy.close()
                opened.append(await first_result_s(pool))
            await original.close()
    return [
        at_most("fork() with a 10 MB DataFrame and 20 files, p50", 1000 * statistics.median(taken), "ms", 30),
        Figure("fork() / open to first result, p50", statistics.median(taken) / statistics.median(opened), "×"),
        Figure("private memory of such a copy", private / 2**20, "MB"),
    ]


FIGURES: tuple[Callable[[Settings], Awaitable[list[Figure]]], ...] = (
    start_and_round_trip,
    opened_per_second,
    live_at_once,
    killed_and_reaped,
    remote_round_trip,
    copies,
)


async def open_many(pool: LocalPool, count: int) -> list[LocalRepl]:
    return await asyncio.gather(*(pool.open((), no_tools, seed=number) for number in range(count)))


async def worker(pool: ReplPool, todo: Iterator[int]) -> None:
    for _ in todo:  # one iterator that all workers share
        await session(pool)


async def session(pool: ReplPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    await answers(repl, CELL)
    await repl.close()


async def first_result_s(pool: ReplPool) -> float:
    started = time.perf_counter()
    repl = await pool.open((), no_tools, seed=0)
    await answers(repl, CELL)
    elapsed = time.perf_counter() - started
    await repl.close()
    return elapsed


async def round_trips_s(pool: ReplPool, count: int) -> list[float]:
    repl = await pool.open((), no_tools, seed=0)
    times = []
    for _ in range(count):
        started = time.perf_counter()
        await answers(repl, CELL)
        times.append(time.perf_counter() - started)
    await repl.close()
    return times


async def answers(repl: Repl, code: str) -> None:
    execution = await repl.run(code, deadline_s=120.0)
    assert execution.status == "ok", execution


def private_bytes(repl: LocalRepl) -> int:
    """Held by the processes of a REPL and by nobody else."""
    pids = [pid for root in repl.host_pids for pid in processes.tree([root])]
    return sum(_private(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")) for pid in pids)


def _private(rollup: str) -> int:
    lines: Iterable[str] = rollup.splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def cpu_s() -> float:
    """Processor seconds so far of this process, the zygotes, and every session that they have reaped."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + processes.cpu_s_of(processes.tree([os.getpid()])[1:])


async def no_tools(name: str, arguments: dict[str, Json]) -> Json:
    raise AssertionError(name)
