"""Requests of episodes at replicas with few places: who goes where, who waits, and for how long. Time is virtual."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st

from lzero.engine.vllm.adapters import Adapters
from lzero.engine.vllm.codec import Codec
from lzero.engine.vllm.places import Bell, Places
from lzero.engine.vllm.replica import Replica
from lzero.engine.vllm.routing import Router
from lzero.engine.vllm.server import Load, VLLMServer
from lzero.engine.vllm.supervisor import Fleet
from lzero.errors import EngineError
from lzero.models import load_tokenizer, resolve

CODEC = Codec(
    tokenizer=load_tokenizer(resolve("nano")), stop_ids=frozenset(), vocab_size=9, max_tokens=9, owner="this run"
)
CALM = Load(running=0, waiting=0, cache_usage=0.1, prefix_queries=0, prefix_hits=0, tokens=0, preemptions=0)
DEADLINE_S = 60.0


class Served:
    """A router over servers with so many places each, and the requests that it has placed."""

    def __init__(self, *places: int) -> None:
        self.fleet = Fleet()
        for number, most in enumerate(places):
            self.fleet.add(VLLMServer(f"server {number}", socket=Path("none")))
            self.fleet.members[-1].places.limit(most)
        self.router = Router([Replica(each, CODEC, Adapters(), lambda: 0) for each in self.fleet.members], self.fleet)
        self.began: list[tuple[str, str, float]] = []
        """Each request, its server, and when it got its place."""

    async def ask(self, name: str, *, seconds: float = 10.0, deadline_s: float = DEADLINE_S) -> str:
        """Hold a place for so many seconds; return the name of its server."""
        async with self.router.place(name.partition("/")[0], deadline_s=deadline_s) as replica:
            assert replica.supervisor.places.taken <= replica.supervisor.places.bound
            self.began.append((name, replica.name, asyncio.get_running_loop().time()))
            await asyncio.sleep(seconds)
            return replica.name


def test_an_episode_stays_at_its_server_and_leaves_it_only_when_that_is_full() -> None:
    async def check() -> None:
        served = Served(1, 2)
        assert [await served.ask(f"a/{step}") for step in range(3)] == ["server 0"] * 3
        assert await served.ask("b") == "server 1"  # has fewer episodes
        other = asyncio.create_task(served.ask("c"))
        await asyncio.sleep(1.0)
        assert await served.ask("a/3") == "server 1"
        assert await other == "server 0"
        assert await served.ask("a/4") == "server 1"
        served.router.forget("a")
        assert "a" not in served.router.homes

    virtual_time.run(check())


def test_what_a_joined_server_did_before_does_not_bound_it() -> None:
    places = Places(Bell(), preemptions=None)
    places.limit(256)
    places.saw(replace(CALM, running=2, preemptions=40))
    assert places.bound == 256
    places.saw(replace(CALM, running=200, preemptions=41))
    assert places.bound == 200


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.lists(st.floats(0.1, 9.0), min_size=1, max_size=20))
def test_requests_beyond_all_places_wait_first_come_first_served(
    places: Sequence[int], lasting: Sequence[float]
) -> None:
    async def check() -> None:
        served = Served(*places)
        asked = [served.ask(f"e{number}", seconds=seconds, deadline_s=1e6) for number, seconds in enumerate(lasting)]
        await asyncio.gather(*asked)
        assert [name for name, _, _ in served.began] == [f"e{number}" for number in range(len(lasting))]
        assert sum(each.places.taken for each in served.fleet.members) == 0
        waits = [began for _, _, began in served.began]
        assert served.router.take_queue_s() == pytest.approx(sum(waits) / len(waits))

    virtual_time.run(check())


def test_a_request_that_waits_too_long_for_a_place_fails_and_says_what_to_do() -> None:
    async def check() -> None:
        served = Served(1)
        long = asyncio.create_task(served.ask("a", seconds=100.0))
        await asyncio.sleep(0)
        with pytest.raises(
            EngineError, match=r"waited 60 s in the queue for a place at server 0: .*rollout\.concurrency"
        ):
            await served.ask("b")
        waiting = asyncio.create_task(served.ask("c"))
        await asyncio.sleep(0)
        waiting.cancel()
        await long
        assert await served.ask("d") == "server 0"

    virtual_time.run(check())


def test_seconds_in_which_no_server_serves_do_not_count_as_waiting() -> None:
    async def check() -> None:
        served = Served(1)
        (member,) = served.fleet.members
        member.await_weights()
        asked = [asyncio.create_task(served.ask(name)) for name in "ab"]
        await asyncio.sleep(20 * DEADLINE_S)
        member.admit(is_new_version=True)
        assert await asyncio.gather(*asked) == ["server 0"] * 2
        assert served.router.take_queue_s() == pytest.approx(5.0)  # one of two has waited for the other

    virtual_time.run(check())


def test_requests_that_wait_fail_when_all_servers_are_given_up() -> None:
    async def check() -> None:
        served = Served(1)
        held = asyncio.create_task(served.ask("a"))
        waiting = [asyncio.create_task(served.ask(name)) for name in "bc"]
        await asyncio.sleep(1.0)
        served.fleet.members[0].lose("has ended")
        for each in waiting:
            with pytest.raises(EngineError, match="server 0 has ended: start it again"):
                await each
        await held

    virtual_time.run(check())


@pytest.mark.parametrize(
    "crowded", [replace(CALM, running=16, cache_usage=0.9), replace(CALM, running=16, preemptions=1)]
)
def test_a_server_whose_memory_is_full_takes_fewer_requests_until_it_has_room_again(crowded: Load) -> None:
    places = Places(Bell())
    places.limit(64)
    places.taken = 64
    places.saw(crowded)
    assert (places.bound, places.is_full) == (16, True)
    calm = replace(crowded, cache_usage=0.1)
    bounds = []
    for _ in range(20):
        places.saw(calm)
        bounds.append(places.bound)
    assert (bounds[:3], bounds[-1]) == ([18, 20, 22], 64)
    places.taken = 10
    places.saw(replace(calm, running=8, cache_usage=1.0))
    places.saw(calm)
    assert places.bound == 8 + 1
