"""One call of a tool, whatever it raises: its own words are kept, its traceback is logged once, and nothing of ours is taken for it."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from builders import make_task

from lzero.agent import calling, user_code
from lzero.agent.broker import Broker
from lzero.agent.calling import CallContext
from lzero.agent.user_code import MAX_CHARS
from lzero.errors import DataError, ProtocolError, ReplDied, ToolError, WorkspaceError
from lzero.protocols import Tool, ToolContext
from lzero.tools import tool
from lzero.tools.cache import Cached
from lzero.tools.retry import Backoff, RateLimited, Retried
from lzero.types import Json

TASK = make_task()


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


async def nothing(path: str) -> bytes:
    raise WorkspaceError(f"there is no file {path!r}")


def broker_of(*tools: Tool, read: Callable[[str], Awaitable[bytes]] = nothing) -> Broker:
    return Broker(TASK, tools, read)


async def failure(made: Tool, **arguments: Json) -> ToolError:
    broker = broker_of(made)
    with pytest.raises(ToolError) as raised:
        await broker.on_call(made.name, arguments)
    assert broker.broken is (raised.value if raised.value.fault == "tool" else None)
    (call,) = broker.take_calls()
    assert (call.error, call.fault) == (str(raised.value), raised.value.fault)
    return raised.value


RAISED: list[tuple[BaseException, str]] = [
    (TimeoutError("the directory hung up after 2 s"), "TimeoutError: the directory hung up after 2 s"),
    (ConnectionResetError("by its peer"), "ConnectionResetError: by its peer"),
    (asyncio.CancelledError("by itself"), "CancelledError: by itself"),
    (SystemExit(3), "SystemExit: 3"),
    (GeneratorExit(), "GeneratorExit"),
    (ReplDied("as the tool says"), "as the tool says"),
    (DataError("the cache is gone"), "the cache is gone"),
    (
        ExceptionGroup("two", [KeyError("k"), TimeoutError("late")]),
        "ExceptionGroup: two (2 sub-exceptions); KeyError: 'k'",
    ),
    (BaseExceptionGroup("odd", [SystemExit(2)]), "SystemExit: 2"),
    (Silent(), "Silent"),
    (ValueError("x" * 100_000), "characters, the middle is cut"),
    (ValueError("half \ud800"), "half \ufffd"),
]


@pytest.mark.parametrize(("error", "told"), RAISED, ids=[type(error).__name__ for error, _ in RAISED])
async def test_what_a_tool_raises_by_itself_is_its_failure_in_its_own_words(error: BaseException, told: str) -> None:
    @tool
    def plain() -> str:
        """Fails in a thread."""
        raise error

    @tool
    async def concurrent() -> str:
        """Fails on the event loop."""
        raise error

    for made in (plain, concurrent):
        found = await failure(made)
        assert found.fault == "tool"
        assert told in str(found)
        assert "did not answer within" not in str(found)
        assert len(str(found)) < MAX_CHARS + 100
        assert found.__cause__ is error


async def test_exceptions_that_a_thread_cannot_hand_over_are_reported_too() -> None:
    @tool
    def fails(how: str) -> str:
        """Fails."""
        raise StopIteration if how == "stop" else KeyboardInterrupt

    assert "StopIteration" in str(await failure(fails, how="stop"))
    assert "KeyboardInterrupt" in str(await failure(fails, how="interrupt"))


async def test_a_tool_error_inside_a_task_group_counts_as_it_was_meant() -> None:
    @tool
    async def grouped(word: str) -> str:
        """Asks twice at once."""

        async def ask() -> None:
            raise ToolError(f"there is no {word}", fault="agent")

        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
        return ""

    found = await failure(grouped, word="Liri")
    assert (found.fault, str(found)) == ("agent", "there is no Liri")


async def test_an_unknown_fault_is_a_bug() -> None:
    @tool
    def odd() -> str:
        """Blames somebody else."""
        raise ToolError("no", fault="user")  # type: ignore[arg-type]

    assert """fault is "agent" or "tool", not 'user'""" in str(await failure(odd))


async def test_wrappers_leave_a_timeout_of_the_tool_alone(tmp_path: Path) -> None:
    @tool
    async def slow() -> str:
        """Gives up by itself."""
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()
        return ""

    wrapped: list[Tool] = [
        Retried(slow, Backoff(tries=1)),
        RateLimited(slow, per_second=1000.0),
        Cached(slow, tmp_path / "answers.sqlite", version="1"),
    ]
    for made in wrapped:
        assert str(await failure(made)) == "slow raised TimeoutError"


async def test_our_deadline_is_reported_as_ours_even_if_the_tool_replaces_its_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calling, "TOOL_TIMEOUT_S", 0.05)
    monkeypatch.setattr(user_code, "CLEANUP_S", 0.05)
    ended = asyncio.Event()

    @tool
    async def stubborn() -> str:
        """Does not let itself be stopped."""
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    @tool
    async def translated() -> str:
        """Has a word of its own for it."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("cancelled") from None
        return ""

    for made in (stubborn, translated):
        assert str(await failure(made)) == f"{made.name} did not answer within 0.05 s"
    ended.set()


async def test_who_cancels_the_call_cancels_the_tool_and_waits_until_it_has_cleaned_up() -> None:
    began, cleaned = asyncio.Event(), asyncio.Event()

    @tool
    async def waits() -> str:
        """Waits."""
        try:
            began.set()
            return await asyncio.Event().wait() and ""
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    running = asyncio.create_task(broker_of(waits).on_call("waits", {}))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cleaned.is_set()


@pytest.mark.parametrize("broke", [ProtocolError("a file of no shape"), ReplDied("it exited"), ConnectionResetError()])
async def test_a_session_that_breaks_as_a_tool_reads_a_file_is_to_blame_whatever_the_tool_makes_of_it(
    broke: Exception,
) -> None:
    async def read(path: str) -> bytes:
        raise broke

    @tool
    async def swallow(context: ToolContext) -> str:
        """Thinks that nothing is wrong."""
        try:
            await context.read_file("a.txt")
        except Exception:
            return "fine"
        return "read"

    broker = broker_of(swallow, read=read)
    with pytest.raises(type(broke)):
        await broker.on_call("swallow", {})
    assert broker.broken is None


async def test_a_file_that_is_not_there_is_the_agents_doing() -> None:
    with pytest.raises(ToolError) as raised:
        await CallContext(TASK, nothing).read_file("a.txt")
    assert raised.value.fault == "agent"


async def test_the_traceback_of_a_bug_is_logged_once_and_begins_with_the_users_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @tool
    def divide(by: int) -> float:
        """Divides."""
        if by > 5:
            raise ValueError("too large")
        return 1 / by

    broker = broker_of(divide)
    with caplog.at_level(logging.ERROR, "lzero"):
        for by in (0, 0, 9, 0):
            with pytest.raises(ToolError):
                await broker.on_call("divide", {"by": by})
    first, second = caplog.messages
    assert first.startswith("the tool divide raised an exception:\nTraceback (most recent call last):\n")
    assert "return 1 / by" in first
    assert first.endswith("ZeroDivisionError: division by zero")
    assert "lzero" + os.sep + "tools" not in first
    assert second.endswith("ValueError: too large")


async def test_a_tool_of_ones_own_whose_call_is_not_async_says_so() -> None:
    class Plain:
        name, parameters, description = "plain", (), "plain()\nIs plain."

        def call(self, arguments: dict[str, Json], context: Any) -> Any:
            return "at once"

    assert "call has to be `async def`: it returned str" in str(await failure(Plain()))


async def test_a_tool_that_changes_its_directory_changes_it_for_itself(tmp_path: Path) -> None:
    @tool
    def move() -> str:
        """Goes elsewhere."""
        os.chdir(tmp_path)
        return os.getcwd()

    before = os.getcwd()
    if await broker_of(move).on_call("move", {}) != str(tmp_path):
        pytest.fail("the tool did not move")
    moved = os.getcwd()
    os.chdir(before)
    if moved != before:
        pytest.skip("this machine has no working directory of a thread's own (unshare)")


async def test_an_async_tool_that_blocks_the_event_loop_is_named_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_code, "BLOCKING_S", 0.0)

    @tool
    async def computes() -> str:
        """Computes where it should wait."""
        await asyncio.sleep(0)
        return "done"

    broker = broker_of(computes)
    for _ in range(2):
        assert await broker.on_call("computes", {}) == "done"
    (message,) = caplog.messages
    assert message.startswith("the tool computes blocked the event loop for 0.0 s")


async def test_a_tool_may_leave_a_cancel_scope_of_its_own_as_http_clients_do() -> None:
    """anyio cancels the task at each turn of the event loop, until it has left the scope."""

    @tool
    async def races() -> str:
        """Ask two servers and take the first answer."""
        for _ in range(3):
            with anyio.CancelScope() as scope:
                scope.cancel()
                try:
                    await asyncio.sleep(30.0)
                finally:
                    for _ in range(3):  # cleaning up is cancelled, too
                        with suppress(asyncio.CancelledError):
                            await asyncio.sleep(0)
        return "answered"

    assert await broker_of(races).on_call("races", {}) == "answered"
