"""An agent's tools, from what they are named by: objects, names of our own, import paths."""

from collections.abc import Sequence
from pathlib import Path

from lzero.agent.recorded import OWN
from lzero.config import Config
from lzero.plugins import load_object
from lzero.protocols import Tool


def open_tools(named: Sequence[str | Tool], config: Config, *, key: str, taken: Sequence[str] = ()) -> tuple[Tool, ...]:
    """Tools as `key` names them. Raises ConfigError for one that is no tool, that lacks what it needs, or whose name is `taken`, the
    agent's own or another's."""
    from lzero.repl import environment
    from lzero.tools.catalog import check_tool, open_tool

    def kernel_python() -> Path:
        return environment.python_of_sessions(config.repl)

    opened: dict[str, Tool] = {}
    for each in named:
        if not isinstance(each, str):
            tool = each
        elif ":" in each:
            tool = load_object(each, key=key)
        else:
            tool = open_tool(each, config, kernel_python=kernel_python)
        check_tool(tool, taken=(*OWN, *taken, *opened), said=f"{key}: {each!r}")
        opened[tool.name] = tool
    return tuple(opened.values())
