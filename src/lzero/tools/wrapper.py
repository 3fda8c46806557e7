"""Base of wrappers: a tool that calls another tool and does something more, without a difference for the agent."""

import json

from lzero.protocols import Tool, ToolContext, WithKernelSource, WithRecord
from lzero.types import Json


class Wrapper:
    """A tool that calls another one. Its description for sessions is that of the wrapped tool."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.name = tool.name
        self.parameters = tool.parameters
        self.description = tool.description
        if isinstance(tool, WithKernelSource):
            self.kernel_source = tool.kernel_source
        if isinstance(tool, WithRecord):
            self.on_record = tool.on_record

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        return await self.tool.call(arguments, context)


def canonical(arguments: dict[str, Json]) -> str:
    """Return arguments as JSON text, which is equal for equal arguments in any order."""
    return json.dumps(arguments, sort_keys=True, separators=(",", ":"))
