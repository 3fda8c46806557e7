"""Make one call of one tool, with a deadline, in a task of its own."""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass

from lzero.agent.clocks import Clocks
from lzero.agent.user_code import Bugs, Late, Raised, leaves, outcome_in_time, words
from lzero.errors import LzeroError, ToolError, WorkspaceError
from lzero.protocols import Tool
from lzero.tools.values import to_json
from lzero.turns import CLOCK, CallClock
from lzero.types import Json, Task

TOOL_TIMEOUT_S = 60.0
"""Deadline of a call, in seconds of work, without queues (`lzero.turns`). The agent chooses the arguments, so a call that exceeds it is the
agent's fault: the agent sees the error, and the time counts on its budget."""
TOO_MUCH = (MemoryError, OverflowError, RecursionError)
"""Exceptions of a tool that was asked for too much, such as a petabyte, or a number of thousands of digits. Like a call that takes too
long, they are the agent's fault."""
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
    agents_time = clocks.agents_time() if clocks is not None else nullcontext()
    try:
        async with agents_time:
            outcome = await outcome_in_time(
                lambda: _result(tool, arguments, context, clock),
                f"the tool {tool.name}",
                bugs,
                clock.at_most(TOOL_TIMEOUT_S),
            )
    except Late:
        raise ToolError(f"{tool.name} did not answer within {TOOL_TIMEOUT_S:g} s", fault="agent") from None
    except TimeoutError:
        raise ToolError(TIME_UP, fault="agent") from None
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
    return await to_json(await answer, tool=tool.name)


def _blamed(tool: Tool, raised: BaseException, bugs: Bugs) -> ToolError:
    """Convert an exception of a tool to the ToolError that the agent sees and the record keeps."""
    found = list(leaves(raised))
    tool_errors = [error for error in found if isinstance(error, ToolError)]
    if len(tool_errors) == len(found):  # in a group, a fault of the tool outweighs one of the agent
        return next((error for error in tool_errors if error.fault == "tool"), tool_errors[0])
    if isinstance(raised, LzeroError):  # for example, a cache whose file is gone
        return ToolError(str(raised), fault="tool")
    bugs.log(f"the tool {tool.name}", raised)
    is_agents = all(isinstance(error, TOO_MUCH) or getattr(error, "fault", "tool") == "agent" for error in found)
    return ToolError(f"{tool.name} raised {words(raised)}", fault="agent" if is_agents else "tool")
