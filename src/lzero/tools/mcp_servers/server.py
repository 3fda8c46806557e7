"""The tools of a live MCP server.

    async with McpServer(spec) as server:
        server.tools                        protocols.Tool, each

The SDK's context managers must be entered and left by one task: each connection has a task of its own, which lives until it is told
to stop, or until the server is gone. A call waits for its answer or for that task, whichever ends first.
"""

import asyncio
import os
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    INVALID_REQUEST,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
)
from mcp.types import Tool as Listed

from lzero import __version__
from lzero.errors import ConfigError, ToolError
from lzero.protocols import Tool, ToolContext
from lzero.tools.mcp_servers.http import BoundedClient
from lzero.tools.mcp_servers.specs import Filled, Lookup, McpSpec, fill
from lzero.tools.mcp_servers.stdio import STOP_S, StdioTransport
from lzero.tools.mcp_servers.words import (
    MAX_MESSAGE,
    Signature,
    answer,
    description,
    signature,
    tool_name,
)
from lzero.tools.shapes import one_line
from lzero.types import Json

CONNECT_S = 60.0
"""Seconds that a server may take to start and say hello; some are downloaded first."""
LIST_S = 20.0
CALL_S = 50.0
"""Seconds that a call may take, a new connection included; below what an agent's broker waits for a tool."""
MAX_TOOLS = 128
_CLOSE_S = 4 * STOP_S
_INHERITED = ("PATH", "HOME", "LANG")
_Answer = TypeVar("_Answer")


class Lost(Exception):
    """The connection is gone; the message says how."""


class McpServer:
    """One server, from `async with` until its end. `tools` stay what they were when it was entered.

    Raises ConfigError from `async with` where the server cannot be reached or started, with the cause. A server that dies later fails
    the call that waits for it (ToolError, the tool's fault), and is started again, once, by each call that finds it gone.
    """

    def __init__(
        self,
        spec: McpSpec,
        *,
        taken: Collection[str] = (),
        lookup: Lookup = os.environ.get,
        connect_s: float = CONNECT_S,
        call_s: float = CALL_S,
    ) -> None:
        """`taken`: names that its tools must not have. `lookup`: where the `${NAME}` of a spec are found."""
        self.spec = spec
        self.tools: tuple[Tool, ...] = ()
        self._taken = taken
        self._filled = fill(spec, lookup)
        self._connect_s = connect_s
        self._call_s = call_s
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            connection = await self._connected(self._connect_s)
            listed = await connection.ask(_list_tools, LIST_S)
        except (Lost, TimeoutError, MCPError, ValueError) as error:
            await self.close()
            cause = f"did not answer within {self._connect_s:g} s" if isinstance(error, TimeoutError) else str(error)
            raise ConfigError(f"the MCP server {self._name} {self._filled.hide(one_line(cause, 600))}") from None
        except BaseException:
            await self.close()
            raise
        self.tools = self._tools(listed)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection and, if we started it, the server. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def call(self, name: str, arguments: dict[str, Json]) -> Json:
        """Call the tool that the server itself calls `name`. Raises ToolError."""
        start = time.monotonic()
        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        try:
            connection = await self._connected(self._call_s)
            left = max(0.0, self._call_s - (time.monotonic() - start))
            # Not `call_tool`: it would check the answer against a schema of the server's, whose patterns may take for ever.
            result = await connection.ask(lambda client: client.session.send_request(request, CallToolResult), left)
        except TimeoutError:
            raise self._failed(f"did not answer {one_line(name, 60)} within {self._call_s:g} s") from None
        except Lost as error:
            raise self._failed(str(error)) from None
        except MCPError as error:
            if error.code == INVALID_PARAMS:
                raise ToolError(one_line(self._filled.hide(error.message), 2000), fault="agent") from None
            raise self._failed(
                f"refused {one_line(name, 60)}: {one_line(self._filled.hide(error.message), 600)}"
            ) from None
        except (ValueError, RuntimeError) as error:
            raise self._failed(
                f"gave {one_line(name, 60)} an answer of another shape: {one_line(str(error), 300)}"
            ) from None
        value = _hide(answer(result), self._filled)
        if result.is_error:  # the protocol's way to tell the model what to do otherwise
            text = value if isinstance(value, str) else str(value)
            raise ToolError(text[:2000] or f"{name} failed and does not say why", fault="agent")
        return value

    @property
    def _name(self) -> str:
        return repr(one_line(self.spec.name, 60))

    def _failed(self, what: str) -> ToolError:
        return ToolError(f"the MCP server {self._name} {self._filled.hide(what)}", fault="tool")

    def _tools(self, listed: Sequence[Listed]) -> tuple[Tool, ...]:
        taken = set(self._taken)
        tools = []
        for tool in listed:
            name = tool_name(tool.name, server=self.spec.name, taken=taken)
            taken.add(name)
            shape = signature(tool.input_schema, tool.output_schema)
            text = description(name, shape, tool.description, server=self.spec.name)
            tools.append(McpTool(name, self._filled.hide(text), tool.name, shape, self))
        return tuple(tools)

    async def _connected(self, deadline_s: float) -> "_Connection":
        """The connection, made where there is none or it is lost. Raises Lost, TimeoutError."""
        async with asyncio.timeout(deadline_s), self._opening:
            if self._connection is None or self._connection.lost:
                await self.close()
                self._connection = await _Connection.open(self._transport)
            return self._connection

    def _transport(self, on_end: Callable[[], None]) -> "_Transport":
        if self.spec.command:
            inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
            stdio = StdioTransport(self.spec.command, inherited | self._filled.values, on_end, self._filled.hide)
            return _Transport(stdio, lambda: stdio.problem)
        client = BoundedClient(self._filled.values, read_s=self._call_s + 10.0)
        streams = streamable_http_client(self.spec.url, http_client=client, max_sse_event_size=MAX_MESSAGE)
        return _Transport(streams, lambda: client.problem, client)


class McpTool:
    """A tool of a server, under the name and the parameters that an agent writes."""

    def __init__(self, name: str, text: str, original: str, shape: Signature, server: McpServer) -> None:
        self.name = name
        self.parameters = tuple(shape.names)
        self.description = text
        self._original = original
        self._shape = shape
        self._server = server

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Raises ToolError: the agent's fault where an argument is missing or unknown, or the server tells what to do otherwise; the
        tool's where the server is gone, silent, or breaks the protocol."""
        shape = self._shape
        if unknown := [name for name in arguments if name not in shape.names]:
            raise ToolError(f"{self.name} has no parameter {unknown[0]!r}: {self.name}{shape.text}", fault="agent")
        if missing := [name for name in shape.names if name in shape.required and name not in arguments]:
            raise ToolError(f"{self.name} needs {missing[0]!r}: {self.name}{shape.text}", fault="agent")
        return await self._server.call(self._original, {shape.names[name]: value for name, value in arguments.items()})


@dataclass(frozen=True)
class _Transport:
    """What a connection stands on: the two streams, how they failed, and what is open around them."""

    streams: AbstractAsyncContextManager[Any]
    problem: Callable[[], str]
    around: AbstractAsyncContextManager[Any] | None = None


class _Connection:
    """One connection and the task that it lives in."""

    def __init__(self, make_transport: Callable[[Callable[[], None]], _Transport]) -> None:
        self._stop = asyncio.Event()
        self._transport = make_transport(self._stop.set)
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._problem = ""
        self._task = asyncio.create_task(self._live())

    @classmethod
    async def open(cls, make_transport: Callable[[Callable[[], None]], _Transport]) -> Self:
        """Raises Lost where it cannot be had. Nothing is left open then, nor when the caller is cancelled."""
        connection = cls(make_transport)
        try:
            await _first(connection._client, connection._task)
            if not connection._client.done():
                raise Lost(connection.problem)
        except BaseException:
            await connection.close()
            raise
        return connection

    @property
    def lost(self) -> bool:
        return self._stop.is_set() or self._task.done()

    @property
    def problem(self) -> str:
        told = self._transport.problem()
        if self._problem and told and told not in self._problem:
            return f"{self._problem} ({told})"
        return self._problem or told or "closed the connection"

    async def ask(self, what: Callable[[Client], Coroutine[Any, Any, _Answer]], deadline_s: float) -> _Answer:
        """What the server answers. Raises Lost, TimeoutError, and whatever the SDK raises for the answer itself."""
        request = asyncio.create_task(what(self._client.result()))
        request.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has looked at it
        try:
            async with asyncio.timeout(deadline_s):
                await _first(request, self._task)
            if not request.done():
                raise Lost(self.problem)
            return _result_of(request)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED or (error.code == INVALID_REQUEST and "terminated" in error.message):
                await self._end(error.message)
                raise Lost(self.problem) from None
            raise
        finally:
            request.cancel()

    async def close(self) -> None:
        """Told to stop, then made to. Cancelled meanwhile, the task still ends what it opened, in its own time."""
        self._stop.set()
        try:
            if self._client.done():
                await asyncio.wait({self._task}, timeout=_CLOSE_S)
        finally:
            self._task.cancel()
        await asyncio.wait({self._task}, timeout=_CLOSE_S)

    async def _end(self, message: str) -> None:
        """The streams have ended: the task knows why, or will in a moment."""
        self._stop.set()
        if not self._transport.problem():
            await asyncio.wait({self._task}, timeout=_CLOSE_S)
        self._problem = self._problem or ("" if self._transport.problem() else f"broke off: {one_line(message, 300)}")

    async def _live(self) -> None:
        transport = self._transport
        try:
            async with AsyncExitStack() as stack:
                if transport.around is not None:
                    await stack.enter_async_context(transport.around)
                client = Client(
                    transport.streams, client_info=Implementation(name="lzero", version=__version__), cache=None
                )
                await stack.enter_async_context(client)
                self._client.set_result(client)
                await self._stop.wait()
        except Exception as error:
            self._problem = _cause(error)


def _result_of(request: "asyncio.Task[_Answer]") -> _Answer:
    """Return the result of a finished request. Raises Lost for an exception that looks like our own deadline or cancellation."""
    try:
        return request.result()
    except (TimeoutError, asyncio.CancelledError) as error:
        raise Lost(f"failed: {one_line(str(error), 300) or type(error).__name__}") from None


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _list_tools(client: Client) -> list[Listed]:
    listed: list[Listed] = []
    cursor: str | None = None
    while len(listed) < MAX_TOOLS:
        page = await client.list_tools(cursor=cursor)
        listed += page.tools
        cursor = page.next_cursor
        if not cursor or not page.tools:
            break
    return listed[:MAX_TOOLS]


def _cause(error: BaseException) -> str:
    """The first thing that went wrong, in a sentence's end."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.strerror:
        return (
            f"cannot be started: {error.strerror}: {error.filename}" if error.filename else f"failed: {error.strerror}"
        )
    text = one_line(str(error), 300)
    return f"failed: {text or type(error).__name__}"


def _hide(value: Json, filled: Filled) -> Json:
    """A server may echo the secret that it was given."""
    if isinstance(value, str):
        return filled.hide(value)
    if isinstance(value, list):
        return [_hide(item, filled) for item in value]
    if isinstance(value, dict):
        return {filled.hide(name): _hide(item, filled) for name, item in value.items()}
    return value
