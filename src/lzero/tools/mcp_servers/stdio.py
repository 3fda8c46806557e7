"""Run an MCP server as a child process: lines of JSON over its standard input and output.

The SDK's own transport accepts a line of any length, and passes the server's stderr on. Here lines are bounded, and the server gets only
the environment variables that it is given. The end of its stderr is kept as the cause of its death. No process of its group remains,
however the surrounding task ends.
"""

import asyncio
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from anyio import BrokenResourceError, ClosedResourceError, create_memory_object_stream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from lzero.json_bounds import has_too_many
from lzero.json_repair import repaired
from lzero.tools.mcp_servers.bounds import MAX_MESSAGE, MAX_VALUES, Line, lines
from lzero.tools.mcp_servers.errors import MALFORMED, TOO_DEEP, TOO_LARGE, TOO_MANY, failed_answer, is_too_deep
from lzero.tools.program import close_pipes, signal_group
from lzero.tools.shapes import one_line

STOP_S = 2.0
"""Seconds that a server has to end after its standard input is closed, and again after a signal."""
MAX_PRINTED = 4 << 20
"""The most consecutive bytes without a message; reading more would keep the event loop busy."""
_LINE_BYTES = 100
"""The bytes that a line counts for at least."""
_POLL_S = 0.01
_STDERR_BYTES = 4000
_Received = MemoryObjectReceiveStream[SessionMessage | Exception]
_Incoming = MemoryObjectSendStream[SessionMessage | Exception]
_Gone = (BrokenResourceError, ClosedResourceError)


class StdioServer:
    """A server that `streams` runs. It calls `on_end` when the server has ended; `problem` says how."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_end: Callable[[], None],
        hide: Callable[[str], str] = str,
    ) -> None:
        """`hide` removes secrets from the server's stderr."""
        self._command = command
        self._environment = environment
        self._on_end = on_end
        self._hide = hide
        self._stderr = b""
        self.problem = ""

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[_Received, MemoryObjectSendStream[SessionMessage]]]:
        """Start the server, yield the two streams of the SDK's client, and end it. Raises OSError if the command cannot be started."""
        environment = dict(self._environment)
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        incoming, received = create_memory_object_stream[SessionMessage | Exception](0)
        sent, outgoing = create_memory_object_stream[SessionMessage](0)
        listener = asyncio.create_task(self._listen(process.stderr))
        reader = asyncio.create_task(self._read(process, process.stdout, incoming, listener))
        writer = asyncio.create_task(self._write(process.stdin, outgoing, incoming, reader))
        try:
            yield received, sent
        finally:
            try:
                for stream in (incoming, received, sent, outgoing):
                    stream.close()  # the reader goes on and drops the data, because a server that is writing cannot end
                await _stop(process)
            finally:
                signal_group(process, signal.SIGKILL)  # also for its remaining children, and after a cancelled wait
                for task in (listener, reader, writer):
                    task.cancel()
                close_pipes(process)

    async def _read(
        self, process: Process, stdout: asyncio.StreamReader, incoming: _Incoming, listener: asyncio.Task[None]
    ) -> None:
        printed = 0
        try:
            async for line in lines(stdout):
                if (message := _message(line)) is not None:
                    printed = 0
                    await incoming.send(message)
                elif line.is_cut:
                    raise ValueError("too long")
                elif (printed := printed + max(len(line.text), _LINE_BYTES)) >= MAX_PRINTED:
                    break
                else:
                    await asyncio.sleep(0)  # a piece that was read may have 65,536 lines, which would hold up the loop
            self.problem = "is gone" if printed < MAX_PRINTED else "prints without end what is no message"
        except ValueError:
            self.problem = f"sent a line of more than {MAX_MESSAGE:,} bytes"
        except ConnectionError as error:
            self.problem = f"cannot be read: {error}"
        except _Gone:  # this side closes the streams
            await _drain(stdout)
            return
        self.problem += await self._ending(process, stdout, listener)
        self._on_end()
        incoming.close()
        await _drain(stdout)

    async def _write(
        self,
        stdin: asyncio.StreamWriter,
        outgoing: MemoryObjectReceiveStream[SessionMessage],
        incoming: _Incoming,
        reader: asyncio.Task[None],
    ) -> None:
        try:
            async for item in outgoing:
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                stdin.write(text.encode() + b"\n")
                await stdin.drain()
        except _Gone:
            incoming.close()
        except OSError as error:
            done, _ = await asyncio.wait({reader}, timeout=STOP_S)  # the reader knows how the server ended
            if not done:
                self.problem = f"takes no more calls: {error.strerror}"
                self._on_end()
                incoming.close()

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(65_536):
            self._stderr = (self._stderr + chunk)[-_STDERR_BYTES:]

    async def _ending(self, process: Process, stdout: asyncio.StreamReader, listener: asyncio.Task[None]) -> str:
        """Return how the server ended, if it did, and its last words on stderr."""
        told = []
        if stdout.at_eof() and await _has_ended(process, STOP_S):
            code = process.returncode or 0
            told.append(f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}")
            await asyncio.wait({listener}, timeout=_POLL_S)  # a child of it may hold its stderr
        if lines := self._stderr.decode("utf-8", "replace").strip().splitlines():
            told.append(f"last words: {one_line(self._hide(lines[-1]), 300)}")
        return f" ({'; '.join(told)})" if told else ""


def _message(line: Line) -> SessionMessage | None:
    """Return the message of a line, or an error in place of an unreadable answer; None if it is not a message."""
    is_too_much = has_too_many(line.text, MAX_VALUES)
    code, told = MALFORMED, "the answer is not valid JSON-RPC"
    if is_too_much:
        code, told = TOO_MANY, "the answer has too many values"
    elif line.is_cut:
        code, told = TOO_LARGE, "the answer is too large"
    else:
        try:
            return _read_message(line.text)
        except ValueError as error:
            code = TOO_DEEP if is_too_deep(str(error)) else code
    number = line.answers
    return None if number is None else failed_answer(number, code, told)  # None: a server that prints


def _read_message(text: bytes) -> SessionMessage:
    """Raises ValueError."""
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False))
    except ValueError:
        if (mended := repaired(text)) == text:
            raise
    return SessionMessage(jsonrpc_message_adapter.validate_json(mended, by_name=False))


async def _drain(stdout: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await stdout.read(65_536):
            pass


async def _stop(process: Process) -> None:
    """Stop the server as the protocol prescribes: close its input, wait, then send signals."""
    if process.stdin is not None:
        process.stdin.close()
    if await _has_ended(process, STOP_S):
        return
    signal_group(process, signal.SIGTERM)
    if await _has_ended(process, STOP_S):
        return
    signal_group(process, signal.SIGKILL)
    await _has_ended(process, STOP_S)


async def _has_ended(process: Process, seconds: float) -> bool:
    """Return whether the process ends within `seconds`. `process.wait()` would also wait for its pipes, which its children may hold."""
    deadline = asyncio.get_running_loop().time() + seconds
    while process.returncode is None:
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True
