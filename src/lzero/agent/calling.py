"""Make one call of one tool, with a deadline, and keep the tool's exceptions apart from lzero's.

A tool may raise the exceptions that control asyncio: TimeoutError of its own `wait_for`, CancelledError, SystemExit. So each call runs in
its own task, which returns such an exception as a value. A raised exception is lzero's own.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lzero.agent.bugs import Bugs, leaves, words
from lzero.agent.clocks import Clocks
from lzero.errors import LzeroError, ToolError, WorkspaceError
from lzero.protocols import Tool
from lzero.tools.values import as_json
from lzero.turns import CLOCK, CallClock
from lzero.types import Json, Task

T = TypeVar("T")
TOOL_TIMEOUT_S = 60.0
"""Deadline of a call, in seconds of work, without queues (`lzero.turns`). The agent chooses the arguments, so a call that exceeds it is the
agent's fault: the agent sees the error, and the time counts on its budget."""
TIME_UP = "the time for cells and tool calls is used up"
BLOCKING_S = 2.0
"""Seconds after which an `async` tool that blocks the event loop is logged as a warning."""
CLEANUP_S = 5.0
"""Seconds that a cancelled tool has to clean up. The episode then goes on without waiting for it."""


@dataclass
class CallContext:
    """The part of an episode that a tool may see. Each call gets its own."""

    task: Task
    read: Callable[[str], Awaitable[bytes]]
    """Reads a file of the calling session's workspace."""
    broke: Exception | None = None
    """The exception with which the session broke during `read_file`. It replaces what the tool raises, because the session is at fault."""

    async def read_file(self, path: str) -> bytes:
        try:
            return await self.read(path)
        except WorkspaceError as error:
            raise ToolError(str(error), fault="agent") from None
        except Exception as error:
            self.broke = error
            raise


async def call_tool(
    tool: Tool,
    arguments: dict[str, Json],
    context: CallContext,
    bugs: Bugs,
    *,
    clock: CallClock,
    clocks: Clocks | None = None,
) -> Json:
    """Return the tool's result; `clock` is the time of the call, `clocks` are the episode's.

    Raises ToolError, or the exception with which the session broke during `read_file`."""
    calling = asyncio.ensure_future(_outcome(tool, arguments, context, bugs, clock))
    time_up: asyncio.Timeout | None = None
    try:
        with suppress(TimeoutError):
            agents_time = clocks.agents_time() if clocks is not None else nullcontext()
            async with clock.at_most(TOOL_TIMEOUT_S), agents_time as time_up:
                await asyncio.wait({calling})
        in_time = calling.done()
    finally:
        if not calling.done():
            calling.cancel()
            await asyncio.wait({calling}, timeout=CLEANUP_S)
    if not in_time:
        late = f"{tool.name} did not answer within {TOOL_TIMEOUT_S:g} s"
        raise ToolError(TIME_UP if time_up is not None and time_up.expired() else late, fault="agent")
    result, raised = calling.result()
    if context.broke is not None:
        raise context.broke
    if raised is not None:
        raise _blamed(tool, raised, bugs) from raised
    return result


async def _outcome(
    tool: Tool, arguments: dict[str, Json], context: CallContext, bugs: Bugs, clock: CallClock
) -> tuple[Json, BaseException | None]:
    """Return the tool's result, or the exception that it raised."""
    CLOCK.set(clock)  # for this task and those that it starts
    task = asyncio.current_task()
    assert task is not None
    try:
        answer = tool.call(arguments, context)
        if not inspect.isawaitable(answer):
            raise TypeError(
                f"{type(tool).__qualname__}.call has to be `async def`: it returned {type(answer).__name__}"
            )
        found = await Watched(answer, lambda blocked_s: bugs.log_blocking(f"the tool {tool.name}", blocked_s))
        return as_json(found, tool=tool.name), None
    except KeyboardInterrupt:
        raise  # Ctrl-C: one that a function raises in its thread comes as another exception
    except asyncio.CancelledError as error:
        if task.cancelling():  # lzero cancelled it
            raise
        return None, error
    except BaseException as error:
        return None, error


class Watched(Generic[T]):
    """An awaitable of a user's code that measures how long each of its steps blocks the event loop, which all episodes share.

    If it ignores a cancellation, it is abandoned at the next one, so that the process can end.
    """

    def __init__(self, awaitable: Awaitable[T], on_blocking: Callable[[float], None]) -> None:
        self._awaitable = awaitable
        self._on_blocking = on_blocking

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._awaitable.__await__()
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            start = time.monotonic()
            try:
                waits_for = steps.send(sent) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                answer: T = end.value
                return answer
            finally:
                if (blocked_s := time.monotonic() - start) > BLOCKING_S:
                    self._on_blocking(blocked_s)
            try:
                sent, thrown = (yield waits_for), None
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                # It ignored the first cancellation, so it is abandoned. anyio cancels the task repeatedly to leave its own scope.
                if task is not None and task.cancelling() > 1 and not _leaves_a_scope(error):
                    with suppress(RuntimeError):  # it may ignore that, too
                        steps.close()
                    raise
                sent, thrown = None, error
            except BaseException as error:
                sent, thrown = None, error


def _leaves_a_scope(error: asyncio.CancelledError) -> bool:
    """Return whether anyio, which HTTP clients use, cancelled the task; the cancelled code then catches this itself."""
    return bool(error.args) and str(error.args[0]).startswith("Cancelled via cancel scope")


def _blamed(tool: Tool, raised: BaseException, bugs: Bugs) -> ToolError:
    """Convert an exception of a tool to the ToolError that the agent sees and the record keeps."""
    found = list(leaves(raised))
    tool_errors = [error for error in found if isinstance(error, ToolError)]
    if len(tool_errors) == len(found):  # in a group, a fault of the tool outweighs one of the agent
        return next((error for error in tool_errors if error.fault == "tool"), tool_errors[0])
    if isinstance(raised, LzeroError):  # for example, a cache whose file is gone
        return ToolError(str(raised), fault="tool")
    bugs.log(f"the tool {tool.name}", raised)
    return ToolError(f"{tool.name} raised {words(raised)}", fault="tool")
