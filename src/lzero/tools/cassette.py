"""Record tool calls, and replay them without the tool. A cassette is a JSONL file with a `ToolCall` per line.

tool = Recorded(tool, Path("calls.jsonl"))
tool = Replayed(tool, read_cassette(Path("calls.jsonl")))
"""

import os
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path

import msgspec

from lzero.errors import DataError, ToolError
from lzero.paths import read_bounded
from lzero.protocols import Tool, ToolContext, ToolSpec
from lzero.tools.wrapper import Wrapper, canonical
from lzero.types import Json, ToolCall

MAX_BYTES = 1 << 30
"""Bytes of the largest cassette."""


class Recorded(Wrapper):
    """Records every call, also those that raise a ToolError, in the order of their ends. Raises DataError if the file is not a cassette.

    Each call is on disk when it is answered, in one write, so it survives a crash, and several tools may share a file.
    """

    def __init__(self, tool: Tool, file: Path) -> None:
        super().__init__(tool)
        self._file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        except OSError as error:
            raise DataError(f"cannot write the cassette {file}: {error.strerror}") from None
        read_cassette(file)

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        start = time.perf_counter()
        try:
            result = await self.tool.call(arguments, context)
        except ToolError as error:
            self._write(arguments, start, error=error)
            raise
        self._write(arguments, start, result=result)
        return result

    def _write(
        self, arguments: dict[str, Json], start: float, *, result: Json = None, error: ToolError | None = None
    ) -> None:
        call = ToolCall(
            name=self.name,
            arguments=arguments,
            duration_s=time.perf_counter() - start,
            result=result,
            error=None if error is None else str(error),
            fault=None if error is None else error.fault,
        )
        line = msgspec.json.encode(call) + b"\n"
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as failure:
            raise DataError(f"cannot write the cassette {self._file}: {failure.strerror}") from failure
        if written != len(line):
            raise DataError(f"cannot write the cassette {self._file}: the disk is full")


class Replayed:
    """Answers from recorded calls. The tool itself is never called, and may be only a description.

    Repeated calls get their answers in the recorded order, and after the last one that again.
    """

    def __init__(self, tool: ToolSpec, calls: Iterable[ToolCall]) -> None:
        self.name = tool.name
        self.parameters = tool.parameters
        self.description = tool.description
        self._calls: dict[str, deque[ToolCall]] = defaultdict(deque)
        for call in calls:
            if call.name == self.name:
                self._calls[canonical(call.arguments)].append(call)

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Return the recorded answer. Raises ToolError with the recorded message, or for a call that was not recorded.

        The fault is the agent's, which chooses its calls.
        """
        known = self._calls.get(canonical(arguments))
        if not known:
            raise ToolError(f"{self.name} has no recorded call with {canonical(arguments):.200}", fault="agent")
        call = known.popleft() if len(known) > 1 else known[0]
        if call.error is not None:
            raise ToolError(call.error, fault="agent")
        return call.result


def read_cassette(file: Path) -> tuple[ToolCall, ...]:
    """Return the calls of a cassette, in order. Raises DataError, which names the line, if it is truncated or has other content."""
    try:
        lines = read_bounded(file, max_bytes=MAX_BYTES).split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read the cassette {file}: {error.strerror}") from None
    calls = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line:
            break  # the empty rest after the last newline
        try:
            calls.append(msgspec.json.decode(line, type=ToolCall))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            cut = number == len(lines)
            hint = "the line is truncated: delete it to keep the others" if cut else "not a recorded tool call"
            raise DataError(f"{file}, line {number}: {hint} ({error})") from None
        if number == len(lines):
            raise DataError(f"{file}, line {number}: the line is truncated: it does not end with a newline")
    return tuple(calls)
