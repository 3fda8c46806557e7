"""The two clocks of an episode: which one runs, and on whose time a call waits."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress

from virtual_time import run

from lzero.agent.clocks import Clocks
from lzero.turns import CallClock, Clock

sleep = asyncio.sleep


def spent(main: Coroutine[None, None, Clocks]) -> tuple[float, float]:
    """Return the seconds on the agent's clock and on lzero's."""

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
            call = CallClock(callers=clocks.agent)
            with call.stopped():
                await sleep(4)
            await sleep(8)
            assert (call.worked_s, call.queued_s) == (8.0, 4.0)
        await sleep(16)
        assert clocks.left_s == 0.0
        return clocks

    assert spent(main()) == (10.0, 21.0)


def test_calls_that_wait_together_are_one_wait() -> None:
    async def main() -> Clocks:
        clocks = Clocks(agent_s=9.0)
        with clocks.agents_turn():
            first, second = (CallClock(callers=clocks.agent) for _ in range(2))
            first.stop()
            second.stop()
            await sleep(1)
            first.go_on()
            await sleep(2)
            second.go_on()
            await sleep(4)
        return clocks

    assert spent(main()) == (6.0, 1.0)


def test_calls_that_wait_behind_one_of_their_own_episode_wait_on_the_agents_time() -> None:
    async def main() -> Clocks:
        clocks = Clocks(agent_s=9.0)
        with clocks.agents_turn():
            served, waits = (CallClock(callers=clocks.agent) for _ in range(2))
            waits.stop()
            await sleep(1)
            served.end()  # now it waits for others
            await sleep(2)
            waits.go_on()
            waits.end()
            await sleep(4)
        return clocks

    assert spent(main()) == (5.0, 2.0)


def test_a_call_that_ends_while_it_waits_no_longer_stops_the_agents_clock() -> None:
    async def main() -> Clocks:
        clocks = Clocks(agent_s=9.0)
        with clocks.agents_turn():
            given_up = CallClock(callers=clocks.agent)
            given_up.stop()
            await sleep(1)
            given_up.end()
            given_up.go_on()
            await sleep(2)
        return clocks

    assert spent(main()) == (2.0, 1.0)


def test_a_wait_that_outlasts_its_cell_is_not_on_the_next_cells_time() -> None:
    async def main() -> Clocks:
        clocks = Clocks(agent_s=9.0)
        with clocks.agents_turn():
            late = CallClock(callers=clocks.agent)
            late.stop()
            await sleep(1)
        await sleep(2)
        late.go_on()
        await sleep(4)
        with clocks.agents_turn():
            await sleep(8)
        return clocks

    assert spent(main()) == (8.0, 7.0)


def one_after_another(*waits: float, spare_s: float) -> Coroutine[None, None, Clocks]:
    """Run a cell whose calls wait for so many seconds in turn, while lzero has `spare_s` seconds for that."""

    async def main() -> Clocks:
        clocks = Clocks(agent_s=99.0, spare_s=lambda: spare_s - clocks.lzero.worked_s)
        with clocks.agents_turn():
            for seconds in waits:
                call = CallClock(callers=clocks.agent)
                with call.stopped():
                    await sleep(seconds)
                call.end()
        return clocks

    return main()


def test_the_wait_of_one_call_a_cell_is_never_the_agents() -> None:
    assert spent(one_after_another(30.0, spare_s=5.0)) == (0.0, 30.0)


def test_waits_that_the_agent_multiplies_are_lzeros_as_long_as_it_has_time_to_spare() -> None:
    assert spent(one_after_another(8.0, 8.0, 8.0, spare_s=90.0)) == (0.0, 24.0)
    assert spent(one_after_another(8.0, 8.0, 8.0, spare_s=10.0)) == (14.0, 10.0)
    assert spent(one_after_another(8.0, 8.0, 8.0, spare_s=-10.0)) == (16.0, 8.0)


def test_calls_that_wait_at_once_multiply_their_waits_too() -> None:
    async def main() -> Clocks:
        clocks = Clocks(agent_s=99.0, spare_s=lambda: 10.0 - clocks.lzero.worked_s)
        with clocks.agents_turn():
            calls = [CallClock(callers=clocks.agent) for _ in range(5)]
            for call in calls:
                call.stop()
            for call in calls:
                await sleep(6)
                call.end()
        return clocks

    assert spent(main()) == (20.0, 10.0)


def test_multiplied_waits_are_the_agents_where_its_time_is_compared_with_lzeros() -> None:
    async def main(*waits: float, engine_s: float) -> bool:
        clocks = await one_after_another(*waits, spare_s=1e6)
        await sleep(engine_s)
        return clocks.is_agents

    assert not run(main(40.0, engine_s=1.0))
    assert run(main(10.0, 10.0, 10.0, 10.0, engine_s=19.0))
    assert not run(main(10.0, 10.0, 10.0, 10.0, engine_s=21.0))


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
