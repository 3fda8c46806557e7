"""Open an agent's tools, given as objects, names in the catalog, or import paths."""

from collections.abc import Sequence
from pathlib import Path

from lzero.agent.recorded import OWN
from lzero.config import Config
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
        tool = open_tool(each, config, key=key, kernel_python=kernel_python) if isinstance(each, str) else each
        check_tool(tool, taken=(*OWN, *taken, *opened), said=f"{key}: {each!r}")
        opened[tool.name] = tool
    return tuple(opened.values())
