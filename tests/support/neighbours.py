"""Neighbours that work while something else is attacked, and say whether they noticed: `pytest tests/security --neighbours 50`.

A neighbour is a REPL that runs a cell a second, in turn with the others, and checks what it answers: its own state, its own file,
nothing else's output. After each test every neighbour has to answer once more. The neighbours of a test that runs in its module's
event loop are in the module's `pool`, so that attacker and neighbours share zygotes; those of other tests, whose pools
come and go, are in a pool of a process of their own: `python tests/support/neighbours.py 50`.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from repl_sessions import no_tools

from lzero.errors import ReplError
from lzero.repl import LocalPool, LocalRepl
from lzero.types import Execution, Json, Result

PERIOD_S = 1.0
"""Between two cells of a neighbour."""
BOUND_S = 3.0
"""Time that a cell of less than a millisecond may take during an attack, for each process that wants a core at the start of the test."""
SHARING = frozenset({1, 2, 4, 11, 12, 13, 16, 17, 19, 58})
"""Cases whose attackers keep every core busy: processor time is then shared by the scheduler, fairly among processes."""
SHARING_BOUND_S = 10.0
SETUP = "import numpy\ntotal = 0\nopen('mine', 'w').write('{name}')"
CELL = "total += 1\nopen('mine').read(), total, int(numpy.arange(total).sum())"


class Neighbour:
    """One REPL and its work."""

    def __init__(self, name: str, repl: LocalRepl) -> None:
        self._name = name
        self._repl = repl
        self._cells = 0
        self._turn = asyncio.Lock()
        self.noticed: list[str] = []
        self.slowest_s = 0.0

    async def move_in(self) -> None:
        assert (await self._repl.run(SETUP.format(name=self._name), deadline_s=30.0)).status == "ok"

    async def work(self) -> None:
        while True:
            await self.answer()
            await asyncio.sleep(PERIOD_S)

    async def answer(self) -> None:
        """Run one cell, and note anything wrong with it."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        async with self._turn:
            self._cells += 1
            try:
                execution = await self._repl.run(CELL, deadline_s=60.0)
            except ReplError as error:
                self.noticed.append(f"{self._name}: {error!r}")
                return
        self.slowest_s = max(self.slowest_s, loop.time() - asked)
        if execution.outputs != (Result(data={"text/plain": self._right()}),):
            self.noticed.append(f"{self._name}: {told(execution)} where {self._right()} was due")

    def _right(self) -> str:
        return str((self._name, self._cells, sum(range(self._cells))))


class Neighbourhood:
    """All neighbours of a pool, at work."""

    def __init__(self, neighbours: list[Neighbour]) -> None:
        self._neighbours = neighbours

    async def report(self) -> dict[str, Json]:
        """Return what was noticed since the last report, and the time of the slowest cell, after every neighbour has answered."""
        await asyncio.gather(*(neighbour.answer() for neighbour in self._neighbours))
        noticed: list[Json] = [notice for neighbour in self._neighbours for notice in neighbour.noticed]
        slowest = max(neighbour.slowest_s for neighbour in self._neighbours)
        for neighbour in self._neighbours:
            neighbour.noticed, neighbour.slowest_s = [], 0.0
        return {"noticed": noticed, "slowest_s": slowest}


@asynccontextmanager
async def neighbours_in(pool: LocalPool, count: int) -> AsyncIterator[Neighbourhood]:
    """Run `count` neighbours during the block."""
    repls = [await pool.open((), no_tools, seed=number) for number in range(count)]
    neighbours = [Neighbour(f"neighbour {number}", repl) for number, repl in enumerate(repls)]
    working: list[asyncio.Task[None]] = []
    try:
        for neighbour in neighbours:
            await neighbour.move_in()
            working.append(asyncio.create_task(neighbour.work()))
            await asyncio.sleep(PERIOD_S / count)
        yield Neighbourhood(neighbours)
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        for repl in repls:
            await repl.close()


def told(execution: Execution) -> str:
    return f"{execution.status} {execution.reason} {execution.outputs}"[:500]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--neighbours", type=int, default=0, help="REPLs that work beside each test and must not notice it"
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def neighbours_in_pool(pool: LocalPool, request: pytest.FixtureRequest) -> AsyncIterator[Neighbourhood]:
    async with neighbours_in(pool, request.config.getoption("--neighbours")) as neighbourhood:
        yield neighbourhood


@pytest_asyncio.fixture(loop_scope="module")
async def beside_the_pool(neighbours_in_pool: Neighbourhood, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    load = rivals()
    yield
    judge(await neighbours_in_pool.report(), request, load)


@pytest.fixture(scope="session")
def neighbours_elsewhere(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    """Start neighbours through a shell that ends at once, so that tests which count processes below them do not count these."""
    command = [sys.executable, __file__, str(request.config.getoption("--neighbours"))]
    shell = ("sh", "-c", '{ "$@" <&3 & } 3<&0', "sh")
    with subprocess.Popen([*shell, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.wait(20) == 0
        asked(process)
        yield process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.stdout.read() == ""  # it has come to its end


@pytest.fixture
def beside_others(neighbours_elsewhere: "subprocess.Popen[str]", request: pytest.FixtureRequest) -> Iterator[None]:
    load = rivals()
    yield
    judge(asked(neighbours_elsewhere), request, load)


@pytest.fixture(autouse=True)
def none_notices(request: pytest.FixtureRequest) -> None:
    """With `--neighbours`: run some, and fail the test if one of them noticed it."""
    marker = request.node.get_closest_marker("asyncio")
    if request.config.getoption("--neighbours") and request.node.get_closest_marker("sandbox"):
        in_module = marker is not None and marker.kwargs.get("loop_scope") == "module"
        request.getfixturevalue("beside_the_pool" if in_module else "beside_others")


def asked(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Return the report of neighbours in another process."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("report\n")
    process.stdin.flush()
    report: dict[str, Any] = json.loads(process.stdout.readline())
    return report


def rivals() -> float:
    """Return the number of processes for each core that already want it, at least 1; they are unrelated to the coming attack."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def judge(report: dict[str, Any], request: pytest.FixtureRequest, load: float) -> None:
    attack = request.node.get_closest_marker("attack")
    bound_s = SHARING_BOUND_S if attack is not None and attack.args[0] in SHARING else BOUND_S
    print(f"slowest cell of a neighbour: {1000 * report['slowest_s']:.0f} ms")
    assert not report["noticed"], report["noticed"]
    assert report["slowest_s"] < bound_s * load


async def main(count: int) -> None:
    loop = asyncio.get_running_loop()
    async with LocalPool() as pool, neighbours_in(pool, count) as neighbourhood:
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await neighbourhood.report()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
