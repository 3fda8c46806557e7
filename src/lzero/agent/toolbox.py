"""Open an agent's tools, given as objects, names in the catalog, or import paths."""

from collections.abc import Sequence
from pathlib import Path

from lzero.agent.recorded import OWN
from lzero.config import Config
from lzero.plugins import load_object
from lzero.protocols import Tool


def open_tools(named: Sequence[str | Tool], config: Config, *, key: str, taken: Sequence[str] = ()) -> tuple[Tool, ...]:
    """Return the tools that `key` names.

    Raises ConfigError for an object that is not a tool, for a tool that lacks something, and for a name that is `taken`, built in, or used
    twice.
    """
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
