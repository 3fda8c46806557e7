"""SIGKILL, at any moment, of anything that a REPL lives by: success or a typed failure in time, nothing left, nothing unsandboxed.

A kill is drawn at random: whom, at which stage of a session's life, and how far into it. `make test` runs a seeded sample,
`make test-long` a thousand.
"""

import asyncio
import collections
import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import psutil
import pytest
from fault_traces import (
    INSIDE,
    SHUT_IN,
    Traces,
    at_rest,
    below,
    children_of,
    dead,
    inits,
    jails,
    sessions,
    settled,
    traces,
    until,
    works,
    zygotes,
)
from pool_servers import TOKEN, ServerProcess, serving
from repl_sessions import Spec, no_tools, value

from lzero.config import ReplConfig
from lzero.errors import ReplDied, ReplError
from lzero.protocols import Repl, ReplPool
from lzero.repl import LocalPool
from lzero.repl.remote import pool as remote
from lzero.repl.remote.pool import RemotePool
from lzero.types import Execution, Json, Result

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("own_temporary_directory")]
DEADLINE_S = 30.0
"""Within which every life comes to its end, whoever was killed in it; a zygote may have to start anew meanwhile."""
RSS_BYTES = 16 << 20
"""Bytes that the host may hold more after a thousand kills: an allocator's slack, not a session's."""
Victim = Literal["init", "session", "process", "zygote", "jail"]
Stage = Literal["starting", "opening", "idle", "cell", "call", "closing"]
LENGTH_S: dict[Stage, float] = {
    "starting": 0.9,
    "opening": 0.012,
    "idle": 0.0,
    "cell": 0.03,
    "call": 0.02,
    "closing": 0.004,
}
"""About how long each stage takes: the moment of a kill is drawn from it."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Kill:
    victim: Victim
    stage: Stage
    moment_s: float


def draw(dice: random.Random) -> Kill:
    """Draw a kill. Victims after which a zygote must start anew are rarer."""
    (victim,) = dice.choices(get_args(Victim), (3, 3, 4, 2, 2))
    stages = [stage for stage in get_args(Stage) if possible(victim, stage)]
    stage = dice.choice(stages)
    return Kill(victim, stage, dice.uniform(0.0, LENGTH_S[stage]))


def possible(victim: Victim, stage: Stage) -> bool:
    """Return whether a victim exists at a stage: a session and its init once it opens, further processes once it runs cells."""
    return stage not in {"init": ["starting"], "session": ["starting"], "process": ["starting", "opening"]}.get(
        victim, []
    )


class Life:
    """A session from open to close, with its current stage."""

    def __init__(self, pool: ReplPool) -> None:
        self._pool = pool
        self._reached = {stage: asyncio.Event() for stage in get_args(Stage)}
        self.go_on = asyncio.Event()
        """A session that is idle waits for it."""
        self.repl: Repl | None = None

    async def reaches(self, stage: Stage) -> None:
        await self._reached[stage].wait()

    async def live(self) -> str:
        """Return how it ended: "ok", "killed", or the name of a typed failure. Any other failure is raised."""
        self._reached["starting"].set()
        self._reached["opening"].set()
        try:
            self.repl = await self._pool.open([Spec("ask")], self._answer, seed=0)
            return await self._cells(self.repl)
        except ReplError as error:
            return type(error).__name__
        finally:
            for reached in self._reached.values():
                reached.set()
            if self.repl is not None:
                await self.repl.close()

    async def _cells(self, repl: Repl) -> str:
        inside = await repl.run(INSIDE, deadline_s=20.0)
        if inside.status != "ok":
            return inside.status
        assert shown(inside) == SHUT_IN
        self._reached["idle"].set()
        await self.go_on.wait()
        for stage, code, right in (
            ("cell", "import time\ntime.sleep(0.03)\n6 * 7", "42"),
            ("call", "ask()", "7"),
        ):
            self._reached[stage].set()
            execution = await repl.run(code, deadline_s=20.0)
            if execution.status != "ok":
                return execution.status
            assert shown(execution) == right
        self._reached["closing"].set()
        return "ok"

    async def _answer(self, name: str, arguments: dict[str, Json]) -> Json:
        await asyncio.sleep(LENGTH_S["call"])
        return 7


def shown(execution: Execution) -> str:
    """Return the text of the last expression."""
    return "".join(output.data["text/plain"] for output in execution.outputs if isinstance(output, Result))


async def carry_out(kill: Kill, pool: LocalPool, *, others: frozenset[int]) -> str:
    """Run one life with a SIGKILL in it, and return how it ended. `others`: processes below this one outside of the pool."""
    if kill.stage == "starting":
        for jail in jails():
            jail.kill()
        await until(lambda: {process.pid for process in below()} <= others)
    known = {process.pid for process in (*inits(), *sessions())}
    life = Life(pool)
    living = asyncio.create_task(life.live())
    try:
        async with asyncio.timeout(DEADLINE_S):
            if kill.victim == "process":
                await life.reaches("idle")
                assert life.repl is not None
                await life.repl.run("import subprocess\nhelper = subprocess.Popen(['sleep', '1000'])", deadline_s=20.0)
            if kill.stage != "idle":
                life.go_on.set()
            await life.reaches(kill.stage)
            if kill.stage == "opening":
                while not living.done() and not {process.pid for process in sessions()} - known:
                    await asyncio.sleep(0)
            end = time.monotonic() + kill.moment_s
            while time.monotonic() < end:
                await asyncio.sleep(0)
            for process in victims(kill.victim, life, known):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            life.go_on.set()
            return await living
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


def victims(victim: Victim, life: Life, known: set[int]) -> list[psutil.Process]:
    if victim == "zygote":
        return zygotes()
    if victim == "jail":
        return jails()
    born = [process for process in (inits() if victim == "init" else sessions()) if process.pid not in known]
    return born if victim in ("init", "session") else [each for process in born for each in children_of(process)]


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(24, marks=pytest.mark.timeout(600)),
        pytest.param(900, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
    ids=["sample", "whole"],
)
async def test_whoever_is_killed_sessions_end_typed_and_leave_nothing(kills: int) -> None:
    dice = random.Random(1000)
    before = traces()
    outcomes: collections.Counter[tuple[Victim, Stage, str]] = collections.Counter()
    async with LocalPool() as pool:
        bystander = await pool.open((), no_tools, seed=0)
        idle, rss = await at_rest(), psutil.Process().memory_info().rss
        for number in range(kills):
            kill = draw(dice)
            ended = await carry_out(kill, pool, others=before.processes)
            outcomes[kill.victim, kill.stage, ended] += 1
            if kill.victim == "process":
                assert ended == "ok", kill
            if kill.stage == "idle" and kill.victim != "process":
                assert ended != "ok", kill
            if kill.stage != "starting":  # then it may be the environment's Python that was asked, or bubblewrap
                assert ended in ("ok", "killed", "ReplDied"), kill
            if kill.victim in ("zygote", "jail"):
                with pytest.raises(ReplDied):
                    await bystander.run("import time\ntime.sleep(60)", deadline_s=DEADLINE_S)
                await bystander.close()
                bystander = await pool.open((), no_tools, seed=number)
                assert await value(bystander, INSIDE) == SHUT_IN
            assert await works(bystander)
            await settled(idle)
            assert pool.stats()["open"] == 1
            if number == 23:
                rss = psutil.Process().memory_info().rss
        grown = psutil.Process().memory_info().rss - rss
        await bystander.close()
    assert traces() == before
    for (victim, stage, ended), count in sorted(outcomes.items()):
        print(f"{victim:<8} {stage:<9} {ended:<12} {count:4}")
    print(f"host grown by {grown >> 10} KiB")
    assert {ended for _, _, ended in outcomes} >= {"ok", "killed", "ReplDied"}  # they did come in the middle
    assert grown < RSS_BYTES


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Make orphans below this process its children, so that they can be seen."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "kills", [2, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])], ids=["sample", "whole"]
)
async def test_a_host_that_is_killed_at_any_moment_leaves_nothing(kills: int) -> None:
    """Half of them while the pool starts, half of them at work."""
    dice = random.Random(64)
    before = traces()
    with adopting():
        for number in range(kills):
            async with working_host(at_work=number % 2 == 1) as host:
                await asyncio.sleep(dice.uniform(0.0, 0.05 if number % 2 else 2.0))
                host.kill()
            await all_gone(before)


async def test_a_host_that_is_killed_while_a_jail_starts_leaves_nothing() -> None:
    """One half of bubblewrap may wait for the other, which the host's end ends."""
    before = traces()
    with adopting():
        hosts = [start_host("starting_host.py", str(pause_s)) for pause_s in (0.0, 0.02, 0.1)]
        assert [await killed(host) for host in hosts] == [True] * 3
        await all_gone(before)


@asynccontextmanager
async def working_host(*arguments: str, at_work: bool) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """Yield a separate host process, which has run cells already if `at_work`; it has been killed at the end."""
    with start_host("working_host.py", *arguments) as host:
        assert host.stdout is not None
        if at_work:
            assert await asyncio.to_thread(host.stdout.readline) == b"working\n"
        yield host
        assert await killed(host)


def start_host(script: str, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / script), *arguments]
    environment = {**os.environ, "TMPDIR": tempfile.gettempdir(), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


async def killed(host: "subprocess.Popen[bytes]") -> bool:
    """Return whether the process was killed."""
    with host:
        return await asyncio.to_thread(host.wait, DEADLINE_S) == -signal.SIGKILL


async def all_gone(before: Traces) -> None:
    """Looked at twice: who loses its parent just now is in neither place."""

    def gone() -> bool:
        for process in psutil.Process().children():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)  # one that we have adopted
        return not dead() and traces() == before

    for _ in range(2):
        try:
            await until(gone)
        except AssertionError:
            assert (dead(), traces()) == ([], before)
            raise


FEW = pytest.mark.parametrize(
    "kills", [1, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])], ids=["sample", "whole"]
)


@FEW
async def test_a_pool_server_that_is_killed_at_any_moment_is_a_typed_failure_and_leaves_nothing(
    kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_OPEN_TIMEOUT_S", 2.0)  # nobody starts the server again
    dice = random.Random(17)
    before = traces()
    with adopting():
        for _ in range(kills):
            async with ServerProcess() as server, RemotePool((server.url,), token=TOKEN) as pool:
                lives = [Life(pool) for _ in range(4)]
                living = [asyncio.create_task(life.live()) for life in lives]
                for life in lives[1:]:
                    life.go_on.set()  # the first one is idle
                await asyncio.sleep(dice.uniform(0.0, 0.15))
                server.process.kill()
                lives[0].go_on.set()
                async with asyncio.timeout(DEADLINE_S):
                    outcomes = set(await asyncio.gather(*living))
                    assert outcomes <= {"ok", "ReplDied", "ReplError", "ServerLost"}, outcomes
                    with pytest.raises(ReplError, match="no pool server is available"):
                        await pool.open((), no_tools, seed=0)
            await all_gone(before)


@FEW
async def test_a_client_that_is_killed_at_any_moment_leaves_nothing_on_its_server(kills: int) -> None:
    dice = random.Random(18)
    before = traces()
    async with LocalPool(ReplConfig(zygotes=1)) as pool, serving(pool, lease_s=2.0) as server:
        survivor = await pool.open((), no_tools, seed=0)
        idle = await at_rest()
        for _ in range(kills):
            async with working_host(server.url, at_work=True) as client:
                await asyncio.sleep(dice.uniform(0.0, 0.05))
                client.kill()
            await until(lambda: pool.stats()["open"] == 1)
            assert await works(survivor)
            await settled(idle)
        await survivor.close()
    assert traces() == before
