"""The two clocks of an episode: which one runs, and on whose time a call waits."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress

from virtual_time import run

from lzero.agent.clocks import Clocks
from lzero.turns import CallClock, Clock

sleep = asyncio.sleep


def spent(main: Coroutine[None, None, Clocks]) -> tuple[float, float]:
    """Seconds that were the agent's, and lzero's."""

    async def measure() -> tuple[float, float]:
        clocks = await main
        return clocks.agent.worked_s, clocks.lzero.worked_s

    return run(measure())


def test_one_clock_runs_at_a_time() -> None:
    async def main() -> Clocks:
        clocks = Clocks(agent_s=9.0)
        await sleep(1)
        with clocks.agents_turn():
            await sleep(2)
            call = CallClock(outer=clocks.agent)
            with call.stopped():
                await sleep(4)
            await sleep(8)
            assert (call.worked_s, call.queued_s) == (8.0, 4.0)
        await sleep(16)
        assert clocks.left_s == 0.0
        return clocks

    assert spent(main()) == (10.0, 21.0)


def test_waits_at_once_are_one_wait() -> None:
    async def main() -> Clocks:
        clocks = Clocks(agent_s=9.0)
        with clocks.agents_turn():
            first, second = (CallClock(outer=clocks.agent) for _ in range(2))
            first.stop()
            await sleep(1)
            second.stop()
            await sleep(2)
            first.go_on()
            await sleep(4)
            second.go_on()
            await sleep(8)
        return clocks

    assert spent(main()) == (8.0, 7.0)


def test_a_wait_that_outlasts_its_cell_is_not_on_the_next_cells_time() -> None:
    async def main() -> Clocks:
        clocks = Clocks(agent_s=9.0)
        with clocks.agents_turn():
            late = CallClock(outer=clocks.agent)
            late.stop()
            await sleep(1)
        await sleep(2)
        late.go_on()
        await sleep(4)
        with clocks.agents_turn():
            await sleep(8)
        return clocks

    assert spent(main()) == (8.0, 7.0)


def test_a_deadline_counts_only_the_seconds_at_work() -> None:
    async def main() -> float:
        clock = Clock()
        clock.stop()
        with suppress(TimeoutError):
            async with clock.at_most(5.0) as deadline:
                await sleep(100)
                clock.go_on()
                await sleep(4)
                with clock.stopped():
                    await sleep(100)
                await sleep(4)
        assert deadline.expired()
        return asyncio.get_running_loop().time()

    assert run(main()) == 205.0
