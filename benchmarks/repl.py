"""What a sandboxed REPL costs: `python benchmarks/repl.py [--json] [--sessions 200] [--at-once 8]`.

Prints the median time from open to the first cell's result, the median round trip of a trivial cell, sessions per second (open,
one cell, close) and the processor time of one session, the host's share included. The yardstick of the same run is
`bwrap … true`, which starts an empty sandbox and nothing in it.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

from lzero.repl import LocalPool, LocalRepl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--sessions", type=int, default=200, help="sessions of each measurement")
    parser.add_argument("--at-once", type=int, default=8, help="sessions open at once in the throughput measurement")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.sessions, arguments.at_once))
    if arguments.json:
        print(json.dumps(figures))
        return
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {sys.version.split()[0]}"
    )
    for name, value in figures.items():
        print(f"{name:<44} {value:10.2f}")


async def measure(sessions: int, at_once: int) -> dict[str, float]:
    async with LocalPool() as pool:
        await session(pool)
        firsts = [await first_result_s(pool) for _ in range(sessions)]
        trips = await round_trips_s(pool, 500)
        before, started = cpu_s(), time.perf_counter()
        todo = iter(range(sessions))
        await asyncio.gather(*(worker(pool, todo) for _ in range(at_once)))
        wall = time.perf_counter() - started
        cpu = cpu_s() - before
    empty = statistics.median(empty_sandbox_s() for _ in range(20))
    first = statistics.median(firsts)
    return {
        "open to first result, p50 (ms)": 1000 * first,
        "trivial cell round trip, p50 (ms)": 1000 * statistics.median(trips),
        "sessions per second": sessions / wall,
        "processor time per session (ms)": 1000 * cpu / sessions,
        "empty bwrap, p50 (ms)": 1000 * empty,
        "open to first result / empty bwrap": first / empty,
    }


async def worker(pool: LocalPool, todo: Iterator[int]) -> None:
    for _ in todo:  # one iterator that all workers share
        await session(pool)


async def session(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    await trivial(repl)
    await repl.close()


async def first_result_s(pool: LocalPool) -> float:
    started = time.perf_counter()
    repl = await pool.open((), no_tools, seed=0)
    await trivial(repl)
    elapsed = time.perf_counter() - started
    await repl.close()
    return elapsed


async def round_trips_s(pool: LocalPool, count: int) -> list[float]:
    repl = await pool.open((), no_tools, seed=0)
    times = []
    for _ in range(count):
        started = time.perf_counter()
        await trivial(repl)
        times.append(time.perf_counter() - started)
    await repl.close()
    return times


async def trivial(repl: LocalRepl) -> None:
    execution = await repl.run("x = 1\nx + 1", deadline_s=30.0)
    assert execution.status == "ok", execution


def cpu_s() -> float:
    """Processor seconds so far of this process, the zygote, and every session that it has reaped."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def empty_sandbox_s() -> float:
    started = time.perf_counter()
    arguments = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    subprocess.run(arguments, check=True, timeout=30)
    return time.perf_counter() - started


async def no_tools(name: str, arguments: object) -> None:
    raise AssertionError(name)


if __name__ == "__main__":
    main()
