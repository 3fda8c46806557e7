"""Turns at what all episodes share: fair, bounded, and on nobody's clock."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from builders import make_task
from virtual_time import run

from lzero.agent.broker import Broker
from lzero.agent.calling import TOOL_TIMEOUT_S
from lzero.errors import HelperBusy, ToolError
from lzero.protocols import Tool
from lzero.tools import tool
from lzero.turns import CLOCK, MAX_WAITING, QUEUE_S, CallClock, Turns, call_clock

TASK = make_task()


def called(owner: object, work: Callable[[], Awaitable[None]], *, queue_s: float = QUEUE_S) -> "asyncio.Task[None]":
    """Start the work of one call of the episode `owner`."""

    async def call() -> None:
        CLOCK.set(CallClock(owner, queue_s=queue_s))
        await work()

    return asyncio.create_task(call())


def test_an_episode_with_many_waiting_calls_lets_the_single_call_of_another_go_next() -> None:
    async def main() -> list[str]:
        turns, served = Turns(1, "a reader"), []

        def work(name: str) -> Callable[[], Awaitable[None]]:
            async def read() -> None:
                async with turns.turn():
                    served.append(name)
                    await asyncio.sleep(1.0)

            return read

        calls = [called("many", work("many")) for _ in range(60)]
        await asyncio.sleep(0.5)
        calls += [called("one", work("one")), called("two", work("two")), called("two", work("two"))]
        await asyncio.gather(*calls)
        return served

    assert run(main())[:7] == ["many", "many", "one", "two", "many", "two", "many"]


def test_seconds_in_the_queue_are_on_no_deadline_of_the_call_and_are_counted_apart() -> None:
    async def main() -> tuple[float, float]:
        turns = Turns(1, "a reader")

        async def work() -> None:
            async with call_clock().at_most(10.0):
                await asyncio.sleep(6.0)
                async with turns.turn(), call_clock().at_most(4.5):
                    await asyncio.sleep(3.9)

        async def hold() -> None:
            async with turns.turn():
                await asyncio.sleep(300.0)

        holder, clocks = called("other", hold), [CallClock("one")]

        async def timed() -> None:
            CLOCK.set(clocks[0])
            await work()

        await asyncio.gather(holder, asyncio.create_task(timed()))
        return asyncio.get_running_loop().time(), clocks[0].queued_s

    assert run(main()) == pytest.approx((303.9, 294.0))


def test_a_deadline_goes_on_where_it_stopped() -> None:
    async def main() -> float:
        clock = CallClock()

        async def work() -> None:
            await asyncio.sleep(4.0)
            with clock.stopped():
                await asyncio.sleep(100.0)
                with clock.stopped():  # what overlaps counts once
                    await asyncio.sleep(100.0)
            await asyncio.sleep(3600.0)

        with pytest.raises(TimeoutError):
            async with clock.at_most(10.0):
                await work()
        assert clock.queued_s == pytest.approx(200.0)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(210.0)


def test_a_deadline_that_somebody_brought_forward_is_not_put_off_by_a_stop() -> None:
    async def main() -> float:
        clock = CallClock()

        async def work(deadline: asyncio.Timeout) -> None:
            deadline.reschedule(asyncio.get_running_loop().time())
            with clock.stopped():
                await asyncio.sleep(3600.0)

        with pytest.raises(TimeoutError):
            async with clock.at_most(10.0) as deadline:
                await work(deadline)
        return asyncio.get_running_loop().time()

    assert run(main()) == 0.0


def test_a_queue_has_a_deadline_of_its_own_which_is_our_failure() -> None:
    async def main() -> None:
        turns = Turns(1, "a reader of files", advice="read fewer files")

        async def hold() -> None:
            async with turns.turn():
                await asyncio.sleep(1000.0)

        async def wait() -> None:
            with pytest.raises(
                HelperBusy, match="waited 50 s in the queue for a reader of files; read fewer"
            ) as raised:
                async with turns.turn():
                    raise AssertionError
            assert raised.value.fault == "tool"
            assert call_clock().queued_s == pytest.approx(50.0)
            with pytest.raises(HelperBusy):  # the seconds are of all queues of the call together
                async with turns.turn():
                    raise AssertionError
            assert call_clock().queued_s == pytest.approx(50.0)

        holder = called("one", hold)
        await called("two", wait, queue_s=50.0)
        holder.cancel()
        await asyncio.wait({holder})
        async with turns.turn():
            pass

    run(main())


def test_the_queue_of_an_episode_is_bounded_and_those_of_others_have_room() -> None:
    async def main() -> None:
        turns, done = Turns(1, "a reader"), asyncio.Event()

        async def hold() -> None:
            async with turns.turn():
                await done.wait()

        calls = [called("one", hold) for _ in range(MAX_WAITING + 1)]
        await asyncio.sleep(0)
        with pytest.raises(ToolError, match=f"{MAX_WAITING} calls wait in the queue for a reader already") as raised:
            await called("one", hold)
        assert raised.value.fault == "agent"
        for call in calls[1:]:
            call.cancel()
        calls.append(called("one", hold))  # those that were cancelled wait no more
        calls += [called("two", hold)]
        await asyncio.sleep(0)
        done.set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert Counter(call.cancelled() for call in calls) == {True: MAX_WAITING, False: 3}

    run(main())


def test_a_call_that_waits_too_long_behind_those_of_its_own_episode_is_the_agents_fault() -> None:
    async def main() -> list[str]:
        turns = Turns(1, "a reader of files")

        async def work() -> None:
            async with turns.turn():
                await asyncio.sleep(20.0)

        calls = [called("many", work, queue_s=50.0) for _ in range(4)]
        *_, late = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(late, ToolError)
        return [late.fault, str(late)]

    assert run(main()) == [
        "agent",
        "waited 50 s in the queue for a reader of files, behind other calls of yours: make fewer at once",
    ]


@pytest.mark.parametrize("seed", range(20))
def test_places_are_never_lost_and_never_shared_whatever_is_cancelled(seed: int) -> None:
    async def main() -> None:
        source = random.Random(seed)
        places = source.randint(1, 3)
        turns, inside = Turns(places, "a reader", one_by_one=source.random() < 0.5), 0

        async def work() -> None:
            nonlocal inside
            async with turns.turn():
                inside += 1
                assert inside <= places
                try:
                    await asyncio.sleep(source.random())
                finally:
                    inside -= 1

        calls = []
        for _ in range(60):
            calls.append(called(source.randrange(5), work, queue_s=source.choice((0.5, 1000.0))))
            await asyncio.sleep(source.random() / 20)
            if source.random() < 0.4:
                source.choice(calls).cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in ended} <= {type(None), asyncio.CancelledError, HelperBusy, ToolError}
        assert (inside, turns._free, turns._waiting, turns._inside) == (0, places, {}, {})

    run(main())


def test_behind_a_helper_that_serves_one_by_one_the_time_of_a_call_begins_when_those_before_it_are_served() -> None:
    async def main() -> None:
        turns, helper = Turns(4, "a server", one_by_one=True), asyncio.Lock()

        async def work() -> None:
            async with turns.turn(), call_clock().at_most(11.0), helper:
                await asyncio.sleep(10.0)

        await asyncio.gather(*(called(owner, work) for owner in range(6)))
        assert asyncio.get_running_loop().time() == pytest.approx(60.0)

        async def hang() -> None:
            with pytest.raises(TimeoutError):
                async with turns.turn(), call_clock().at_most(11.0), helper:
                    await asyncio.sleep(1000.0)

        await asyncio.gather(called("hangs", hang), called("waits", work))

    run(main())


def test_the_deadline_of_a_tool_call_does_not_cover_the_queue() -> None:
    turns = Turns(1, "a reader")

    @tool
    async def read() -> str:
        """Reads."""
        async with turns.turn():
            return "a text"

    @tool
    async def hang() -> str:
        """Hangs."""
        async with turns.turn():
            return await asyncio.Event().wait() and ""

    def seconds(broker: Broker) -> list[tuple[float, float]]:
        return [(round(call.duration_s, 3), round(call.queued_s, 3)) for call in broker.take_calls()]

    async def main() -> None:
        slow, victim = Broker(TASK, [read, hang], nothing), Broker(TASK, [read, hang], nothing)
        holding = [asyncio.create_task(slow.on_call("hang", {})) for _ in range(3)]
        await asyncio.sleep(10.0)
        assert await victim.on_call("read", {}) == "a text"
        assert seconds(victim) == [(0.0, 2 * TOOL_TIMEOUT_S - 10.0)]
        late = f"hang did not answer within {TOOL_TIMEOUT_S:g} s"
        assert [str(error) for error in await asyncio.gather(*holding, return_exceptions=True)] == [late] * 3
        assert seconds(slow) == [(TOOL_TIMEOUT_S, queued * TOOL_TIMEOUT_S) for queued in (0, 1, 2)]

    run(main())


async def nothing(path: str) -> bytes:
    raise AssertionError(path)


async def test_a_helper_that_is_never_free_is_our_failure_and_says_for_what_the_call_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Turns(1, "a reader of files")
    monkeypatch.setattr("lzero.agent.broker.CallClock", lambda owner, **more: CallClock(owner, queue_s=0.02, **more))

    @tool
    async def read() -> str:
        """Reads."""
        async with turns.turn():
            return "a text"

    broker = Broker(TASK, [read], nothing)
    async with turns.turn():
        with pytest.raises(HelperBusy, match=r"waited 0\.02 s in the queue for a reader of files; run fewer episodes"):
            await broker.on_call("read", {})
    assert isinstance(broker.broken, HelperBusy)
    made: Tool = read
    assert await Broker(TASK, [made], nothing).on_call("read", {}) == "a text"
