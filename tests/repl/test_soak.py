"""The soak: everything that sessions do, well or badly, for as long as `--soak-minutes` says. What the pool holds when all of them have
ended is at the end what it was at the beginning. One minute in `make test-long`; `make soak` takes an hour."""

import asyncio
import collections
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

import psutil
import pytest
from fault_traces import at_rest, jails, settled, traces, until, works
from pool_growth import AT_ONCE, NEVER_REPLACED, sizes, until_warm
from repl_sessions import Spec, value

from lzero.errors import ReplError
from lzero.repl import LocalPool, LocalRepl
from lzero.types import Json

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.usefixtures("own_temporary_directory"),
]
RSS_BYTES = 16 << 20
"""Bytes that host and zygotes may each hold more at the end; a leak of one KB a session would show ten times that in an hour."""
ROUNDS = 10


async def computes(repl: LocalRepl) -> None:
    assert await value(repl, "import pandas\nint(pandas.Series(range(1000)).sum())") == "499500"


async def is_interrupted(repl: LocalRepl) -> None:
    assert (await repl.run("while True: pass", deadline_s=0.1)).status == "timed_out"
    assert await works(repl)


async def ignores_interrupts(repl: LocalRepl) -> None:
    code = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)"
    assert (await repl.run(code, deadline_s=0.1)).status == "killed"


async def calls(repl: LocalRepl) -> None:
    assert await value(repl, "sum(ask() for _ in range(50))") == "350"


async def takes_too_much(repl: LocalRepl) -> None:
    assert (await repl.run("bytearray(10**12)", deadline_s=20.0)).status == "error"
    assert await works(repl)


async def floods(repl: LocalRepl) -> None:
    assert (await repl.run("print('x' * 10**7)", deadline_s=20.0)).status == "ok"


async def exits(repl: LocalRepl) -> None:
    assert (await repl.run("import os\nos._exit(3)", deadline_s=20.0)).status == "killed"


async def is_killed(repl: LocalRepl) -> None:
    running = asyncio.create_task(repl.run("import time\ntime.sleep(600)", deadline_s=600.0))
    await asyncio.sleep(0)
    with contextlib.suppress(psutil.NoSuchProcess):  # with its zygote
        psutil.Process(random.choice(repl.host_pids)).kill()
    assert (await running).status == "killed"


async def leaves_processes(repl: LocalRepl) -> None:
    code = "import subprocess\nfor _ in range(5): subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    assert (await repl.run(code, deadline_s=20.0)).status == "ok"


async def carries_files(repl: LocalRepl) -> None:
    data = bytes(2 << 20)
    await repl.put("there", data)
    assert await repl.get("there") == data


async def is_copied(repl: LocalRepl) -> None:
    await repl.put("kept", b"kept")
    assert await value(repl, "held = [7] * 1000\nlen(held)") == "1000"
    copy = await repl.fork(seven, seed=1)
    try:
        assert await value(copy, "held.append(ask())\nlen(held), open('kept').read()") == "(1001, 'kept')"
        assert await value(repl, "len(held)") == "1000"
    finally:
        await copy.close()


LIVES: dict[Callable[[LocalRepl], Awaitable[None]], int] = {
    computes: 10,
    calls: 5,
    is_interrupted: 2,
    ignores_interrupts: 1,
    takes_too_much: 2,
    floods: 2,
    exits: 2,
    is_killed: 2,
    leaves_processes: 2,
    carries_files: 2,
    is_copied: 2,
}
"""Actions of a session, and their weights."""


class Soak:
    """Runs `AT_ONCE` sessions until told to stop; sometimes a zygote dies."""

    def __init__(self, pool: LocalPool, seed: int) -> None:
        self._pool = pool
        self._dice = random.Random(seed)
        self.lives: collections.Counter[str] = collections.Counter()
        self.kills = 0

    async def round(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        kill_at = time.monotonic() + self._dice.uniform(0.2, 0.8) * seconds
        await asyncio.gather(self._kill_a_zygote(kill_at), *(self._live_until(end) for _ in range(AT_ONCE)))

    async def _live_until(self, end: float) -> None:
        while time.monotonic() < end:
            (life,) = self._dice.choices(list(LIVES), list(LIVES.values()))
            try:
                async with asyncio.timeout(60.0):
                    await self._live(life)
            except ReplError as error:  # of a zygote that was killed: bounded below
                self.lives[type(error).__name__] += 1
            else:
                self.lives[getattr(life, "__name__", "")] += 1

    async def _live(self, life: Callable[[LocalRepl], Awaitable[None]]) -> None:
        repl = await self._pool.open([Spec("ask")], seven, seed=self._dice.randrange(10**6))
        try:
            await life(repl)
        finally:
            await repl.close()

    async def _kill_a_zygote(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        self._dice.choice(jails()).kill()
        self.kills += 1


async def seven(name: str, arguments: dict[str, Json]) -> Json:
    return 7


@pytest.mark.timeout(0)
async def test_whatever_sessions_do_for_hours_leaves_everything_as_it_was(request: pytest.FixtureRequest) -> None:
    seconds = 60.0 * request.config.getoption("--soak-minutes") / ROUNDS
    before = traces()
    async with LocalPool(NEVER_REPLACED) as pool:
        soak = Soak(pool, seed=24)
        await soak.round(min(seconds, 30.0))  # warms up
        await until_warm(pool)
        idle, first, last = await at_rest(), (0, 0, 0), (0, 0, 0)
        for number in range(ROUNDS):
            await soak.round(seconds)
            await until(lambda: pool.stats()["open"] == 0)
            host, warm, descriptors, _ = await quiet(pool, idle)
            last = (host, warm, descriptors)
            first = last if number == 0 else first
            print(f"round {number + 1}: {soak.lives.total()} sessions, host {host >> 10} KiB, zygotes {warm >> 10} KiB")
        print(dict(soak.lives), f"{soak.kills} zygotes killed")
        host, warm, descriptors = (now - then for now, then in zip(last, first, strict=True))
        assert host < RSS_BYTES
        assert warm < RSS_BYTES
        assert descriptors == 0
        failed = soak.lives["ReplDied"] + soak.lives["SandboxError"]
        assert failed <= 2 * AT_ONCE * soak.kills
        assert set(soak.lives) <= {life.__name__ for life in LIVES} | {"ReplDied", "SandboxError"}
    assert traces() == before


async def quiet(pool: LocalPool, idle: tuple[int, ...]) -> tuple[int, ...]:
    """Return the traces while nothing happens, with as many zygotes as before."""
    warm = await until_warm(pool)
    await settled(idle)
    return tuple(sizes(warm))
