"""What takes a tool and gives a tool: the agent sees no difference, `call` does something more."""

import json

from lzero.protocols import Tool, ToolContext, WithKernelSource, WithRecord
from lzero.types import Json


class Wrapper:
    """A tool that calls another one. What a session needs to know of it stays the same."""

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
    """Arguments as JSON text: the same for the same arguments, in whatever order they were given."""
    return json.dumps(arguments, sort_keys=True, separators=(",", ":"))
