"""Make one call of one tool, with a deadline, in a task of its own."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from lzero.agent.clocks import Clocks
from lzero.agent.user_code import CLEANUP_S, Bugs, Raised, leaves, outcome_of, words
from lzero.errors import LzeroError, ToolError, WorkspaceError
from lzero.protocols import Tool
from lzero.tools.values import as_json
from lzero.turns import CLOCK, CallClock
from lzero.types import Json, Task

TOOL_TIMEOUT_S = 60.0
"""Deadline of a call, in seconds of work, without queues (`lzero.turns`). The agent chooses the arguments, so a call that exceeds it is the
agent's fault: the agent sees the error, and the time counts on its budget."""
TIME_UP = "the time for cells and tool calls is used up"


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
    acting = outcome_of(lambda: _result(tool, arguments, context, clock), f"the tool {tool.name}", bugs)
    calling = asyncio.create_task(acting)
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
    outcome = calling.result()
    if context.broke is not None:
        raise context.broke
    if isinstance(outcome, Raised):
        raise _blamed(tool, outcome.error, bugs) from outcome.error
    return outcome


async def _result(tool: Tool, arguments: dict[str, Json], context: CallContext, clock: CallClock) -> Json:
    CLOCK.set(clock)  # for this task and those that it starts
    answer = tool.call(arguments, context)
    if not inspect.isawaitable(answer):
        raise TypeError(f"{type(tool).__qualname__}.call has to be `async def`: it returned {type(answer).__name__}")
    return as_json(await answer, tool=tool.name)


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
