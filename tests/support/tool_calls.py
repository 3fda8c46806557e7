"""Calls of tools, with their results as text and their failures by who is at fault."""

import pytest
from builders import CONTEXT

from lzero.config import Config
from lzero.errors import ToolError
from lzero.protocols import Tool
from lzero.types import Json


def config(**tools: Json) -> Config:
    return Config.model_validate({"tools": {"tries": 1, **tools}})


async def text(tool: Tool, /, **arguments: Json) -> str:
    return str(await tool.call(arguments, CONTEXT))


async def told(tool: Tool, fault: str, /, **arguments: Json) -> str:
    with pytest.raises(ToolError) as raised:
        await tool.call(arguments, CONTEXT)
    assert raised.value.fault == fault, raised.value
    return str(raised.value)
