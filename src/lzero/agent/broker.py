"""Handle tool calls that leave the kernel: check, bound and record them. The submitted answer is kept here, on the host."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from lzero.agent.calling import TIME_UP, CallContext, call_tool
from lzero.agent.clocks import Clocks
from lzero.agent.notepad import NotepadTool
from lzero.agent.user_code import Bugs
from lzero.errors import ToolError
from lzero.protocols import Tool, ToolContext, WithRecord
from lzero.turns import CallClock
from lzero.types import Json, Notepad, Task, ToolCall

CALLS_PER_CELL = 64
NOTES_PER_CELL = 500
"""The most changes of the notepad per cell; the agent does not see them as calls."""
ARGUMENT_BYTES = 100_000
"""The most bytes of one call's arguments, as JSON."""
ARGUMENT_DEPTH = 32
"""The deepest nesting of arguments; some later writers of them fail on deeper ones."""
RECORD_BYTES = 16_000_000
"""The most bytes, as JSON, of the calls that one episode records. An update may hold hundreds of episodes in memory, each with hundreds of
calls, and a tool may return megabytes."""
ANSWER_CHARS = 20_000


class SubmitFinalAnswer:
    """The tool that ends an episode. The first answer counts; later ones are ignored."""

    name = "submit_final_answer"
    parameters = ("answer",)
    description = (
        "submit_final_answer(answer: str) -> str\nSubmits the answer and ends the task; the first call counts."
    )

    def __init__(self) -> None:
        self.answer: str | None = None

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        if "answer" not in arguments:
            raise ToolError("submit_final_answer needs an answer", fault="agent")
        answer = str(arguments["answer"])
        if len(answer) > ANSWER_CHARS:
            raise ToolError(f"the answer has {len(answer)} characters; at most {ANSWER_CHARS} fit", fault="agent")
        if self.answer is not None:
            return "an answer was submitted before; the first one counts"
        self.answer = answer
        return "submitted"


class Broker:
    """Handles the tool calls of one episode. `answer` is the first one submitted; None before."""

    def __init__(
        self,
        task: Task,
        tools: Sequence[Tool],
        read: Callable[[str], Awaitable[bytes]],
        *,
        notepad: bool = False,
        on_call: Callable[[ToolCall], None] = lambda call: None,
        bugs: Bugs | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        """`read` reads a file of the session's workspace. `on_call` receives every recorded call. `bugs` logs exceptions of tools other
        than ToolError; episodes of a run share it. `clocks` bound the time of calls; without them, each has only its own deadline."""
        self._submit = SubmitFinalAnswer()
        self._notepad = NotepadTool()
        self.described: tuple[Tool, ...] = (*tools, self._submit)
        """Tools that the system prompt lists; it describes the notepad separately."""
        self.tools: tuple[Tool, ...] = (*self.described, self._notepad) if notepad else self.described
        self._by_name = {tool.name: tool for tool in self.tools}
        if len(self._by_name) != len(self.tools):
            raise ValueError(f"two tools of one name among {[tool.name for tool in self.tools]}")
        self._task = task
        self._read = read
        self._told = on_call
        self._bugs = bugs or Bugs()
        self._clocks = clocks
        self._num_calls = 0
        self._num_notes = 0
        self._calls: list[ToolCall] = []
        self._room = RECORD_BYTES
        self.broken: ToolError | None = None
        """The first failure that is the tool's own; it ends the episode."""

    @property
    def answer(self) -> str | None:
        return self._submit.answer

    @property
    def notepad(self) -> Notepad:
        return self._notepad.state

    async def on_call(self, name: str, arguments: dict[str, Json]) -> Json:
        """Answer one call. Raises ToolError: a mistake of the agent, which sees it, or a failure of the tool, which stays as `broken`."""
        clock = CallClock(self, callers=None if self._clocks is None else self._clocks.agent)
        result: Json = None
        error: ToolError | None = None
        refused = _refusal(name, arguments)
        if refused:  # an oversized call is not recorded either
            name, arguments = name[:100], {}
        try:
            tool = self._check(name, arguments, refused)
            context = CallContext(self._task, self._read)
            result = await call_tool(tool, arguments, context, self._bugs, clock=clock, clocks=self._clocks)
        except ToolError as raised:
            error = raised
        finally:
            clock.end()
        if name != self._notepad.name or error is not None:
            call = ToolCall(
                name=name, arguments=arguments, result=result, duration_s=clock.worked_s, queued_s=clock.queued_s
            )
            self._record(call, error)
        if error is not None:
            raise error
        return result

    def take_calls(self) -> tuple[ToolCall, ...]:
        """Return the calls since the last time, which are those of one cell."""
        calls = tuple(self._calls)
        self._calls = []
        self._num_calls = self._num_notes = 0
        return calls

    def _check(self, name: str, arguments: dict[str, Json], refused: str) -> Tool:
        if name == self._notepad.name:
            self._num_notes += 1
        else:
            self._num_calls += 1
        if self._num_calls > CALLS_PER_CELL:
            raise ToolError(f"a cell may make {CALLS_PER_CELL} tool calls, no more", fault="agent")
        if self._num_notes > NOTES_PER_CELL:
            raise ToolError(f"a cell may change the notepad {NOTES_PER_CELL} times, no more", fault="agent")
        if refused:
            raise ToolError(f"the arguments of {name} {refused}", fault="agent")
        if self._clocks is not None and not self._clocks.left_s:
            raise ToolError(TIME_UP, fault="agent")
        tool = self._by_name.get(name)
        if tool is None:
            raise ToolError(f"there is no tool {name!r}", fault="agent")
        unknown = [key for key in arguments if key not in tool.parameters]
        if unknown:
            raise ToolError(
                f"{name} has no parameter {unknown[0]!r}: it takes {', '.join(tool.parameters)}", fault="agent"
            )
        return tool

    def _record(self, call: ToolCall, error: ToolError | None) -> None:
        if error is not None and error.fault == "tool":
            self.broken = self.broken or error
        if len(self._calls) >= CALLS_PER_CELL:
            return  # a loop of refused calls would grow the record without bound
        tool = self._by_name.get(call.name)
        if error is not None:
            call = msgspec.structs.replace(call, error=str(error), fault=error.fault)
        elif isinstance(tool, WithRecord):
            call = msgspec.structs.replace(call, result=tool.on_record(call.result))
        self._calls.append(self._within_room(call))
        self._told(call)

    def _within_room(self, call: ToolCall) -> ToolCall:
        """Return the call. If the record has no room for it, a note replaces its arguments and result."""
        size = len(msgspec.json.encode((call.arguments, call.result, call.error)))
        if size <= self._room or (call.name == self._submit.name and call.error is None):
            self._room -= size
            return call
        note = f"[a call of {size:,} bytes, which is not recorded: a record holds {RECORD_BYTES:,}]"
        if call.error is not None:
            return msgspec.structs.replace(call, arguments={}, error=note)
        return msgspec.structs.replace(call, arguments={}, result=note)


def _refusal(name: str, arguments: dict[str, Json]) -> str:
    """Return why a call is too large to process; "" if it is not. Checks the depth first, without recursion, because later code
    recurses."""
    if is_deep(arguments):
        return f"are nested more than {ARGUMENT_DEPTH} deep"
    size = len(name) + len(msgspec.json.encode(arguments))
    return f"take {size} bytes; at most {ARGUMENT_BYTES} fit" if size > ARGUMENT_BYTES else ""


def is_deep(value: Json) -> bool:
    """Return whether a value is nested more deeply than calls allow (ARGUMENT_DEPTH)."""
    level = [value]
    for _ in range(ARGUMENT_DEPTH + 2):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]
    return bool(level)


def _inside(value: dict[str, Json] | list[Json]) -> Iterable[Json]:
    return value.values() if isinstance(value, dict) else value
