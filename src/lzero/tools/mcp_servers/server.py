"""The tools of a live MCP server.

    async with McpServer(spec) as server:
        server.tools                        protocols.Tool, each

Calls of many episodes share one connection. They take turns. A failure of one call does not affect the others.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack, suppress

from mcp import Client, MCPError
from mcp.types import CallToolRequest, CallToolRequestParams, CallToolResult
from mcp.types import Tool as Listed

from lzero.closing import Service, closed_on_error
from lzero.errors import ConfigError, ToolError
from lzero.protocols import Tool, ToolContext
from lzero.tools.mcp_servers.bounds import MAX_MESSAGE, MAX_VALUES
from lzero.tools.mcp_servers.connection import Connection, Lost, Transport
from lzero.tools.mcp_servers.errors import TOO_DEEP, TOO_LARGE, TOO_MANY, fault_of
from lzero.tools.mcp_servers.http import BoundedClient
from lzero.tools.mcp_servers.specs import Filled, Lookup, McpSpec, fill
from lzero.tools.mcp_servers.stdio import StdioServer
from lzero.tools.mcp_servers.words import Signature, answer, description, signature, tool_name
from lzero.tools.shapes import one_line
from lzero.turns import Turns, call_clock
from lzero.types import Json

logger = logging.getLogger(__name__)

CONNECT_S = 60.0
"""Seconds that a server may take to start and greet; some are downloaded first."""
LIST_S = 20.0
CALL_S = 50.0
"""Seconds that a call may take once the server has answered those before it; less than the broker waits for a tool."""
PING_S = 5.0
"""Seconds in which a server answers a ping. One that serves calls one by one has CALL_S for the call before it in addition."""
MAX_TOOLS = 128
CALLS = 8
"""The most calls at one server; further ones wait in turns. A server may serve them one by one."""
_INHERITED = ("PATH", "HOME", "LANG")


class McpServer(Service):
    """One server, from `async with` until its end. `tools` do not change meanwhile.

    Raises ConfigError from `async with`, with the cause, if the server cannot be reached or started. A server that dies later fails the
    waiting calls that it does not declare read-only or idempotent (ToolError, the tool's fault). Each call that finds it gone starts it
    again, once. A server that answers neither a call in time nor a ping after that, nor sends anything else, hangs: it is ended, too.
    """

    def __init__(
        self,
        spec: McpSpec,
        *,
        taken: Collection[str] = (),
        lookup: Lookup = os.environ.get,
        connect_s: float = CONNECT_S,
        call_s: float = CALL_S,
        ping_s: float = PING_S,
    ) -> None:
        """`taken`: names that its tools must not have. `lookup`: finds the `${NAME}` of a spec."""
        self.spec = spec
        self.tools: tuple[Tool, ...] = ()
        self._taken = taken
        self._filled = fill(spec, lookup)
        self._connect_s = connect_s
        self._call_s = call_s
        self._ping_s = ping_s
        self._connection: Connection | None = None
        self._retired: dict[Connection, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()
        self._turns = Turns(CALLS, f"the MCP server {self._name}", one_by_one=True)
        self._given_up: set[asyncio.Task[None]] = set()
        """Tasks that keep the places of calls which nobody waits for, until the server has ended them."""

    async def start(self) -> None:
        async with closed_on_error(self.close):
            try:
                connection = await self._connected()
                listed = await connection.ask(_list_tools, LIST_S)
            except (Lost, TimeoutError, MCPError, ValueError) as error:
                cause = f"did not answer within {LIST_S:g} s" if isinstance(error, TimeoutError) else str(error)
                raise ConfigError(f"the MCP server {self._name} {self._filled.hide(one_line(cause, 600))}") from None
        self.tools = self._tools(listed)

    async def close(self) -> None:
        """End the connection and, if lzero started it, the server. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        for retired, task in list(self._retired.items()):
            await retired.close()
            await asyncio.wait({task})
        if self._given_up:
            await asyncio.wait(self._given_up)  # without a connection, they end

    async def call(self, name: str, arguments: dict[str, Json], *, repeatable: bool = False) -> Json:
        """Call the tool that the server itself calls `name`. Raises ToolError.

        `repeatable`: a second call has no further effect. So it is repeated, once, if the server dies meanwhile; another call may have
        caused that.
        """
        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        try:
            try:
                result = await self._ask(request)
            except Lost:
                if not repeatable:
                    raise
                result = await self._ask(request)
        except TimeoutError:
            late = self._failed(f"did not answer {one_line(name, 60)} within {self._call_s:g} s")
            raise ToolError(str(late), fault="agent") from None  # the agent chose the arguments, as for any tool
        except Lost as error:
            raise self._failed(str(error)) from None
        except MCPError as error:
            raise self._refused(name, error) from None
        except (ValueError, RuntimeError) as error:
            raise self._failed(
                f"gave {one_line(name, 60)} an answer of another shape: {one_line(str(error), 300)}"
            ) from None
        value = _hide(answer(result), self._filled)
        if result.is_error:  # the protocol's way to explain a mistake to the model
            text = value if isinstance(value, str) else str(value)
            raise ToolError(text[:2000] or f"{name} failed and does not say why", fault="agent")
        return value

    async def _ask(self, request: CallToolRequest) -> CallToolResult:
        async with AsyncExitStack() as place:
            await place.enter_async_context(self._turns.turn())
            connection = await self._connected()
            until = call_clock().worked_s + self._call_s
            try:
                # Not `call_tool`: it would validate the answer with the server's schema, whose patterns may take forever.
                return await connection.ask(
                    lambda client: client.session.send_request(request, CallToolResult), self._call_s
                )
            except (TimeoutError, asyncio.CancelledError):
                task = asyncio.create_task(self._outlive(connection, place.pop_all(), until))
                self._given_up.add(task)
                task.add_done_callback(self._given_up.discard)
                raise

    async def _outlive(self, connection: Connection, place: AsyncExitStack, until: float) -> None:
        """Keep the `place` of a call that was given up, until the server works on it no more: then it answers a ping.

        The time of the calls behind it begins only then. A server that hangs is ended, or each of them would hang like the first.
        `until`: the end of the call's time, by its clock.
        """
        async with place:
            left_s, heard = max(0.0, until - call_clock().worked_s) + self._ping_s, connection.heard
            try:
                with suppress(Lost, MCPError, ValueError, RuntimeError):  # an error is an answer, too
                    await connection.ask(lambda client: client.session.send_ping(), left_s)
            except TimeoutError:
                if connection.heard == heard:  # else it serves others, and knows no pings
                    logger.warning("the MCP server %s hangs in a call, and is ended", self._name)
                    await connection.give_up("hangs: it answers neither a call nor a ping")

    @property
    def _name(self) -> str:
        return repr(one_line(self.spec.name, 60))

    def _failed(self, what: str) -> ToolError:
        return ToolError(f"the MCP server {self._name} {self._filled.hide(what)}", fault="tool")

    def _refused(self, name: str, error: MCPError) -> ToolError:
        """Convert the error that answered one call."""
        said = self._filled.hide(error.message)
        if error.code in (TOO_LARGE, TOO_MANY):
            most = f"{MAX_MESSAGE:,} bytes" if error.code == TOO_LARGE else f"{MAX_VALUES:,} values"
            return ToolError(f"{one_line(name, 60)} answered with more than {most}: ask for less", fault="agent")
        if error.code == TOO_DEEP:
            text = f"{one_line(name, 60)} answered with what is nested too deep or has too long a number: ask for less"
            return ToolError(text, fault="agent")
        if fault_of(error) == "agent":
            return ToolError(one_line(said, 2000) or f"{name} failed and does not say why", fault="agent")
        return self._failed(f"refused {one_line(name, 60)}: {one_line(said, 600)}")

    def _tools(self, listed: Sequence[Listed]) -> tuple[Tool, ...]:
        taken = set(self._taken)
        tools = []
        for tool in listed:
            name = tool_name(tool.name, server=self.spec.name, taken=taken)
            taken.add(name)
            shape = signature(tool.input_schema, tool.output_schema)
            text = description(name, shape, tool.description, server=self.spec.name)
            tools.append(McpTool(name, self._filled.hide(text), tool, shape, self))
        return tuple(tools)

    async def _connected(self) -> Connection:
        """Return the connection, or a new one if there is none or it is lost. Raises Lost.

        The start of a server does not count as time of the call that needs it.
        """
        late = asyncio.timeout(self._connect_s)
        try:
            with call_clock().stopped():
                async with late, self._opening:
                    if self._connection is None or not self._connection.usable:
                        self._retire()
                        self._connection = await Connection.open(self._transport)
                    return self._connection
        except TimeoutError:
            if not late.expired():
                raise
            raise Lost(f"did not answer within {self._connect_s:g} s") from None

    def _retire(self) -> None:
        """Release the connection, which closes when its last call has ended."""
        old, self._connection = self._connection, None
        if old is not None:
            task = self._retired[old] = asyncio.create_task(old.retire())
            task.add_done_callback(lambda _: self._retired.pop(old))

    def _transport(self, on_end: Callable[[], None]) -> Transport:
        if self.spec.command:
            inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
            stdio = StdioServer(self.spec.command, inherited | self._filled.values, on_end, self._filled.hide)
            return Transport(stdio.streams(), lambda: stdio.problem)
        client = BoundedClient(self._filled.values, read_s=CALLS * self._call_s + 10.0)
        return Transport(client.streams(self.spec.url), lambda: client.problem, lambda: client.stale)


class McpTool:
    """A tool of a server, with the name and the parameters that an agent writes."""

    def __init__(self, name: str, text: str, original: Listed, shape: Signature, server: McpServer) -> None:
        self.name = name
        self.parameters = tuple(shape.names)
        self.description = text
        self._original = original.name
        hints = original.annotations
        self._repeatable = hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
        self._shape = shape
        self._server = server

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Call the tool on its server. Raises ToolError.

        It is the agent's fault if an argument is missing or unknown, or the server rejects the call; the tool's if the server is gone,
        silent, or breaks the protocol.
        """
        shape = self._shape
        if unknown := [name for name in arguments if name not in shape.names]:
            raise ToolError(f"{self.name} has no parameter {unknown[0]!r}: {self.name}{shape.text}", fault="agent")
        if missing := [name for name in shape.names if name in shape.required and name not in arguments]:
            raise ToolError(f"{self.name} needs {missing[0]!r}: {self.name}{shape.text}", fault="agent")
        named = {shape.names[name]: value for name, value in arguments.items()}
        return await self._server.call(self._original, named, repeatable=self._repeatable)


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


def _hide(value: Json, filled: Filled) -> Json:
    """Replace secrets in an answer, because a server may echo those that it was given."""
    if isinstance(value, str):
        return filled.hide(value)
    if isinstance(value, list):
        return [_hide(item, filled) for item in value]
    if isinstance(value, dict):
        return {filled.hide(name): _hide(item, filled) for name, item in value.items()}
    return value
