"""Tools of MCP servers, over stdio and streamable HTTP, through the official SDK (extra `mcp`).

    async with open_servers(read_specs("stdio:uvx mcp-server-time"), taken=names) as tools:
        …

A server is not trusted: its descriptions are escaped and bounded, its answers are bounded, and every wait has a deadline.
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
    """Yield the tools of all servers, and end these after the block. All names differ, and none is in `taken`.

    Raises ConfigError if a server cannot be started or reached, or the extra is not installed.
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
