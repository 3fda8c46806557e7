"""A service that limits how often it is asked: left alone while it says so, then asked in turns."""

import asyncio

import pytest
from builders import CONTEXT
from virtual_time import run

from lzero.errors import HelperBusy
from lzero.protocols import ToolContext
from lzero.tools.retry import PAUSES, PLACES, AskedTooOften, ServiceError, Throttled
from lzero.turns import CLOCK, QUEUE_S, CallClock
from lzero.types import Json


class Service:
    """Takes a second for each call, and refuses those that end before `until`."""

    name = "ask"
    parameters = ()
    description = "ask()"

    def __init__(self, *, until: float, retry_after_s: float = 0.0) -> None:
        self._until = until
        self._retry_after_s = retry_after_s
        self.asked: list[float] = []
        """Times of the calls."""

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        self.asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.0)
        if asyncio.get_running_loop().time() < self._until:
            raise AskedTooOften("slow down", retry_after_s=self._retry_after_s)
        return "answer"


async def waits(throttled: Throttled) -> float:
    """Make one call of an episode of its own; return its seconds in queues."""
    CLOCK.set(clock := CallClock())
    assert await throttled.call({}, CONTEXT) == "answer"
    return clock.queued_s


def test_a_refusal_pauses_the_calls_of_all_episodes_for_as_long_as_the_service_says() -> None:
    service = Service(until=2.0, retry_after_s=30.0)

    async def main() -> list[float]:
        throttled = Throttled(service)
        first = asyncio.create_task(waits(throttled))
        await asyncio.sleep(11.0)
        return [await waits(throttled), await first]

    assert run(main()) == [20.0, 30.0]
    assert service.asked == [0.0, 31.0, 31.0]


def test_calls_that_come_later_wait_behind_those_that_were_refused() -> None:
    service = Service(until=2.0, retry_after_s=30.0)

    async def main() -> None:
        throttled = Throttled(service)
        await asyncio.gather(*(waits(throttled) for _ in range(3 * PLACES)))
        assert await waits(throttled) == 0.0

    run(main())
    assert service.asked[3 * PLACES :] == [at for at in (31.0, 32.0, 33.0) for _ in range(PLACES)] + [34.0]


def test_a_service_that_never_serves_again_ends_the_wait_however_long_a_pause_it_asks_for() -> None:
    service = Service(until=1e9, retry_after_s=1e6)

    async def main() -> None:
        with pytest.raises(HelperBusy, match=rf"waited {QUEUE_S:g} s in the queue for ask \(slow down\)"):
            await waits(Throttled(service))

    run(main())
    assert service.asked[:3] == [0.0, PAUSES.longest_s + 1.0, 2 * (PAUSES.longest_s + 1.0)]


def test_pauses_grow_while_a_service_does_not_say_how_long() -> None:
    silent = Service(until=100.0)

    async def main() -> None:
        await waits(Throttled(silent))

    run(main())
    pauses = [later - earlier - 1.0 for earlier, later in zip(silent.asked, silent.asked[1:], strict=False)]
    assert len(pauses) > 5
    longest = [min(PAUSES.longest_s, 0.5 * 2**count) for count in range(len(pauses))]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))


def test_a_service_that_fails_otherwise_is_not_waited_for() -> None:
    class Down(Service):
        async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
            raise ServiceError("down")

    async def main() -> None:
        with pytest.raises(ServiceError, match="down"):
            await Throttled(Down(until=0.0)).call({}, CONTEXT)
        assert asyncio.get_running_loop().time() == 0.0

    run(main())
