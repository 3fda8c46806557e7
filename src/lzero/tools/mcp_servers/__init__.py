"""Tools of MCP servers, over stdio and streamable HTTP, through the official SDK (extra `mcp`).

    async with open_servers(read_specs("stdio:uvx mcp-server-time"), taken=names) as tools:
        …

A server is a stranger: what it says of its tools is escaped and bounded, what they answer is bounded, and every wait has a deadline.
"""

import os
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from lzero.errors import ConfigError
from lzero.protocols import Tool
from lzero.tools.mcp_servers.specs import Lookup, McpSpec, read_specs

__all__ = ["McpSpec", "open_servers", "read_specs"]


@asynccontextmanager
async def open_servers(
    specs: Iterable[McpSpec], *, taken: Collection[str] = (), lookup: Lookup = os.environ.get
) -> AsyncIterator[tuple[Tool, ...]]:
    """The tools of all servers, which end when the block is left. No two have one name, and none has a name of `taken`.

    Raises ConfigError where a server cannot be started or reached, and where the extra is not installed.
    """
    try:
        from lzero.tools.mcp_servers.server import McpServer
    except ModuleNotFoundError as error:
        raise ConfigError(f"MCP servers need {error.name}: pip install 'lzero[mcp]'") from None
    tools: list[Tool] = []
    async with AsyncExitStack() as stack:
        for spec in specs:
            names = {*taken, *(tool.name for tool in tools)}
            server = await stack.enter_async_context(McpServer(spec, taken=names, lookup=lookup))
            tools += server.tools
        yield tuple(tools)
