"""One call of one tool: bounded in time, with the tool's own exceptions told apart from ours.

A tool may raise whatever we use for control, by itself: TimeoutError of its own `wait_for`, CancelledError, SystemExit. So it runs in
a task of its own, whose outcome is a value here; what reaches us in another way is ours.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any

from lzero.agent.bugs import Bugs, leaves, words
from lzero.errors import LzeroError, ToolError, WorkspaceError
from lzero.protocols import Tool
from lzero.tools.values import as_json
from lzero.types import Json, Task

TOOL_TIMEOUT_S = 60.0
"""A tool that takes longer has failed: ours to mend, not the agent's doing."""
BLOCKING_S = 2.0
"""A step of an `async` tool that takes longer is worth a warning."""
CLEANUP_S = 5.0
"""What a tool that is given up has to clean up; it is left to itself then."""


@dataclass
class CallContext:
    """What a tool may know of the episode that calls it; one for each call."""

    task: Task
    read: Callable[[str], Awaitable[bytes]]
    """Of the session that calls."""
    broke: Exception | None = None
    """How the session broke as a file was read. It is raised in place of what the tool makes of it: the session is to blame."""

    async def read_file(self, path: str) -> bytes:
        try:
            return await self.read(path)
        except WorkspaceError as error:
            raise ToolError(str(error), fault="agent") from None
        except Exception as error:
            self.broke = error
            raise


async def call_tool(tool: Tool, arguments: dict[str, Json], context: CallContext, bugs: Bugs) -> Json:
    """What the tool returns. Raises ToolError, or what broke the session as the tool read a file."""
    calling = asyncio.ensure_future(_outcome(tool, arguments, context, bugs))
    try:
        done, _ = await asyncio.wait({calling}, timeout=TOOL_TIMEOUT_S)
    finally:
        if not calling.done():
            calling.cancel()
            await asyncio.wait({calling}, timeout=CLEANUP_S)
    if not done:
        raise ToolError(f"{tool.name} did not answer within {TOOL_TIMEOUT_S:g} s", fault="tool")
    result, raised = calling.result()
    if context.broke is not None:
        raise context.broke
    if raised is not None:
        raise _blamed(tool, raised, bugs) from raised
    return result


async def _outcome(
    tool: Tool, arguments: dict[str, Json], context: CallContext, bugs: Bugs
) -> tuple[Json, BaseException | None]:
    """What the tool returns, or raises."""
    task = asyncio.current_task()
    assert task is not None
    try:
        answer = tool.call(arguments, context)
        if not inspect.isawaitable(answer):
            raise TypeError(
                f"{type(tool).__qualname__}.call has to be `async def`: it returned {type(answer).__name__}"
            )
        found = await _Watched(answer, lambda blocked_s: bugs.tell_blocking(f"the tool {tool.name}", blocked_s))
        return as_json(found, tool=tool.name), None
    except KeyboardInterrupt:
        raise  # Ctrl-C: one that a function raises in its thread comes as another exception
    except asyncio.CancelledError as error:
        if task.cancelling():  # by us
            raise
        return None, error
    except BaseException as error:
        return None, error


class _Watched:
    """An awaitable, whose steps are timed: what it computes, or sleeps, without `await` keeps all episodes waiting."""

    def __init__(self, awaitable: Awaitable[Json], on_blocking: Callable[[float], None]) -> None:
        self._awaitable = awaitable
        self._on_blocking = on_blocking

    def __await__(self) -> Generator[Any, Any, Json]:
        steps = self._awaitable.__await__()
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            start = time.monotonic()
            try:
                waits_for = steps.send(sent) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                answer: Json = end.value
                return answer
            finally:
                if (blocked_s := time.monotonic() - start) > BLOCKING_S:
                    self._on_blocking(blocked_s)
            try:
                sent, thrown = (yield waits_for), None
            except BaseException as error:
                sent, thrown = None, error


def _blamed(tool: Tool, raised: BaseException, bugs: Bugs) -> ToolError:
    """What a tool raised, as the error that the agent, the record and the failure show."""
    found = list(leaves(raised))
    told = [error for error in found if isinstance(error, ToolError)]
    if len(told) == len(found):  # of a task group, the gravest
        return next((error for error in told if error.fault == "tool"), told[0])
    if isinstance(raised, LzeroError):  # a cache, say, whose file has gone
        return ToolError(str(raised), fault="tool")
    bugs.tell(f"the tool {tool.name}", raised)
    return ToolError(f"{tool.name} raised {words(raised)}", fault="tool")
