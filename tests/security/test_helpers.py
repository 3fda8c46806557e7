"""Shared helpers on the host: an episode can cost others no more than the wait for a turn."""

import asyncio
import io
import sys
import time
import zipfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from anyio import create_memory_object_stream
from builders import make_task
from cases import attack
from mcp.shared.message import SessionMessage
from virtual_time import run

from lzero.agent.broker import CALLS_PER_CELL, Broker
from lzero.agent.calling import TOOL_TIMEOUT_S
from lzero.errors import ToolError
from lzero.protocols import Tool
from lzero.tools import tool
from lzero.tools.converter import Converter
from lzero.tools.inspect_file import make_inspect_file
from lzero.tools.mcp_servers.server import McpServer
from lzero.tools.mcp_servers.specs import McpSpec
from lzero.tools.mcp_servers.stdio import StdioServer
from lzero.tools.retry import MAX_WAITING, PLACES, AskedTooOften, RateLimited, Retried, Throttled
from lzero.turns import Turns
from lzero.types import Json, ToolCall
from lzero.visible import clean

pytestmark = pytest.mark.integration
TASK = make_task()
SCRIPT = Path(__file__).parents[1] / "support" / "odd_mcp_server.py"


def slow_archive() -> bytes:
    """Return some kilobytes that use up a reader's processor seconds."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("page.html", "<i>" * 5_000_000)
    return file.getvalue()


async def no_files(path: str) -> bytes:
    raise AssertionError(path)


def broker_of(*tools: Tool, file: bytes = b"") -> Broker:
    async def read(path: str) -> bytes:
        return file

    return Broker(TASK, tools, read)


async def told(broker: Broker, name: str, **arguments: Json) -> str:
    try:
        return str(await broker.on_call(name, arguments))
    except ToolError as error:
        return f"{error.fault}: {error}"


def only_call(broker: Broker) -> ToolCall:
    (call,) = broker.take_calls()
    return call


@attack(87)
async def test_slow_files_leave_the_others_their_turn_and_are_the_fault_of_who_chose_them() -> None:
    inspect = make_inspect_file(Converter(cpu_s=1))
    crowd = broker_of(inspect, file=slow_archive())
    slow = [
        asyncio.create_task(told(crowd, "inspect_file", path="a.zip", part="page.html")) for _ in range(CALLS_PER_CELL)
    ]
    await asyncio.sleep(0)
    victim = broker_of(inspect, file=b"hello")
    assert await told(victim, "inspect_file", path="note.txt") == "hello"
    call = only_call(victim)
    assert (call.error, victim.broken) == (None, None)
    assert call.queued_s > 0.0
    ended = [task.result() for task in slow if task.done()]
    assert len(ended) < 8  # of 64: it waited for a turn, not for all
    assert all("agent: a.zip takes more than 1 s of processor time" in answer for answer in ended)
    assert crowd.broken is None
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)


@pytest_asyncio.fixture
async def odd_server() -> AsyncIterator[McpServer]:
    async with McpServer(McpSpec(name="odd", command=(sys.executable, str(SCRIPT)))) as server:
        yield server


@attack(88)
async def test_an_answer_that_looks_like_the_end_of_a_server_ends_one_call_alone(odd_server: McpServer) -> None:
    hostile, victim = broker_of(*odd_server.tools), broker_of(*odd_server.tools)
    waiting = asyncio.create_task(told(victim, "wait"))
    for name, answer in (
        ("closed", "agent: no such key"),
        ("too_large", "agent: too_large answered with more than 8,388,608 bytes: ask for less"),
        ("half_a_character", "a\ufffd"),
        ("too_deep", "agent: too_deep answered with what is nested too deep or has too long a number: ask for less"),
        ("no_json_rpc", "tool: the MCP server 'odd' refused no_json_rpc: the answer is not valid JSON-RPC"),
        ("terminated", "tool: the MCP server 'odd' refused terminated: the account was terminated"),
    ):
        assert await told(hostile, name) == answer
    assert await told(hostile, "release") == "released"
    assert await waiting == "released"
    assert victim.broken is None


@attack(89)
def test_calls_without_number_wait_at_the_expense_of_who_makes_them() -> None:
    @tool
    async def ask(word: str) -> str:
        """Asks a service."""
        return word

    limited = RateLimited(ask, per_second=0.1)

    async def main() -> None:
        crowd, victims = broker_of(limited), [broker_of(limited) for _ in range(3)]
        many = [asyncio.create_task(told(crowd, "ask", word="many")) for _ in range(3 * CALLS_PER_CELL)]
        await asyncio.sleep(5.0)
        assert [await told(victim, "ask", word="one") for victim in victims] == ["one"] * 3
        assert sum(task.done() and task.result() == "many" for task in many) <= 1 + 2 * len(victims)
        refused = [task.result() for task in many if task.done() and task.result() != "many"]
        assert len(refused) == 2 * CALLS_PER_CELL
        assert all(answer.startswith("agent: a cell may make") for answer in refused)
        assert [each.broken for each in (crowd, *victims)] == [None] * 4
        assert all(only_call(each).duration_s == pytest.approx(0.0) for each in victims)
        for task in many:
            task.cancel()
        await asyncio.wait(many)

    run(main())


def limited_service(*, calls: int, window_s: float) -> Tool:
    """Tool of a service that serves so many calls in each window, and refuses the others without saying until when."""
    served: Counter[float] = Counter()

    @tool
    async def ask(word: str) -> str:
        """Asks a service."""
        await asyncio.sleep(0.1)
        window = asyncio.get_running_loop().time() // window_s
        if served[window] == calls:
            raise AskedTooOften("the service is asked too often")
        served[window] += 1
        return word

    return Retried(Throttled(ask))


@attack(89)
def test_a_flood_of_a_service_that_limits_its_calls_voids_no_episode() -> None:
    service = limited_service(calls=20, window_s=60.0)

    async def main() -> None:
        hostile, victims = broker_of(service), [broker_of(service) for _ in range(3)]
        flood = [asyncio.create_task(told(hostile, "ask", word="many")) for _ in range(CALLS_PER_CELL)]
        await asyncio.sleep(1.0)
        answers = [asyncio.create_task(told(victim, "ask", word="one")) for victim in victims]
        assert await asyncio.gather(*answers) == ["one"] * 3
        assert all(only_call(victim).duration_s < 1.0 for victim in victims)  # the pause is no time of theirs
        refused = [answer for answer in await asyncio.gather(*flood) if answer != "many"]
        assert len(refused) == CALLS_PER_CELL - 20 - PLACES - MAX_WAITING
        assert all(answer.startswith("agent: 8 calls wait in the queue for ask, whose service") for answer in refused)
        assert [each.broken for each in (hostile, *victims)] == [None] * 4

    run(main())


@attack(89)
def test_a_helper_that_serves_one_by_one_and_hangs_fails_the_call_it_hangs_in_alone() -> None:
    turns, service = Turns(8, "a service", one_by_one=True), asyncio.Lock()

    @tool
    async def ask(seconds: float) -> str:
        """Asks a service that has one thread."""
        async with turns.turn(), service:
            await asyncio.sleep(seconds)
        return "answered"

    async def main() -> None:
        hostile, victim = broker_of(ask), broker_of(ask)
        hanging = [asyncio.create_task(told(hostile, "ask", seconds=1_000.0)) for _ in range(4)]
        await asyncio.sleep(1.0)
        assert await told(victim, "ask", seconds=30.0) == "answered"
        assert victim.broken is None
        late = f"ask did not answer within {TOOL_TIMEOUT_S:g} s"
        assert all(late in answer for answer in await asyncio.gather(*hanging))

    run(main())


@attack(89)
async def test_a_server_that_prints_lines_by_the_thousand_leaves_the_others_their_turns() -> None:
    """They come in one piece, which is no message."""
    server, stdout, others = StdioServer(("x",), {}, lambda: None), asyncio.StreamReader(), 0
    message = b'{"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}\n'
    stdout.feed_data(b"\n" * 3_000 + message)
    sending, receiving = create_memory_object_stream[SessionMessage | Exception](1)
    listening: Any = None
    reading = asyncio.create_task(server._read(listening, stdout, sending, listening))
    while not receiving.statistics().current_buffer_used:
        await asyncio.sleep(0)
        others += 1
    assert others > 2_000
    reading.cancel()
    await asyncio.wait({reading})
    sending.close()
    receiving.close()


@attack(107)
async def test_a_result_of_millions_of_values_is_converted_beside_the_event_loop() -> None:
    """The agent chooses how many. A plain function's are converted in its thread."""

    @tool
    def rows(number: int) -> list[int]:
        """Return rows."""
        return [0] * number

    @tool
    async def columns(number: int) -> list[int]:
        """Return columns."""
        return [0] * number

    broker = broker_of(rows, columns)
    for name in ("rows", "columns"):
        start = time.thread_time()
        assert await broker.on_call(name, {"number": 790_000}) == [0] * 790_000
        assert time.thread_time() - start < 0.2  # half a second, or twice that, on the event loop


@attack(89)
@pytest.mark.parametrize("patience_s", [None, 0.1])
async def test_a_call_that_a_server_hangs_in_costs_those_behind_it_no_time(patience_s: float | None) -> None:
    """Whether the call reaches its own deadline or is broken off before, by the end of its cell."""
    spec = McpSpec(name="odd", command=(sys.executable, str(SCRIPT)))
    async with McpServer(spec, call_s=1.0, ping_s=0.5) as server:
        hostile, victim = broker_of(*server.tools), broker_of(*server.tools)
        hanging = asyncio.create_task(asyncio.wait_for(told(hostile, "hang"), patience_s))
        answers = [asyncio.create_task(told(victim, "again")) for _ in range(2)]
        assert await asyncio.gather(*answers) == ["done"] * 2
        assert await told(victim, "again") == "done"
        assert victim.broken is None
        assert max(call.duration_s for call in victim.take_calls()) < 1.0
        (ended,) = await asyncio.gather(hanging, return_exceptions=True)
        assert "did not answer hang within 1 s" in str(ended) if patience_s is None else isinstance(ended, TimeoutError)


@attack(107)
async def test_a_notepad_that_is_filled_over_and_over_is_cleaned_beside_the_event_loop() -> None:
    broker = Broker(TASK, [], no_files, notepad=True)
    draft = "\u0628\u200d\u0628" * 6_600
    start = time.thread_time()
    for number in range(60):
        clean(f"{draft}{number}")
    cleaning_s, start = time.thread_time() - start, time.thread_time()
    for number in range(60):
        await broker.on_call("notepad", {"state": {"todos": [], "facts": [], "draft": f"{draft}{number}"}})
    assert time.thread_time() - start < cleaning_s
    assert broker.notepad.draft == f"{draft}59"
