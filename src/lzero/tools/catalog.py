"""Open the built-in tools by name: `open_tool("web_search", config)`."""

from collections.abc import Callable, Container, Mapping
from pathlib import Path

from lzero.config import Config
from lzero.errors import ConfigError
from lzero.plugins import find_plugin
from lzero.protocols import Tool
from lzero.tools.names import name_problem

KernelPython = Callable[[], Path]
"""Returns the interpreter of the kernel environment. Raises ConfigError if that is on another machine."""
CATALOG: Mapping[str, str] = {
    "web_search": "lzero.tools.web_search:open_web_search",
    "read_page": "lzero.tools.read_page:open_read_page",
    "install": "lzero.tools.install:open_install",
    "inspect_file": "lzero.tools.inspect_file:open_inspect_file",
    "look": "lzero.tools.look:open_look",
}
"""Name → import path of a function that returns the tool, configured by [tools]."""


def _no_kernel() -> Path:
    raise ConfigError("install needs to know the kernel environment")


def open_tool(name: str, config: Config, *, key: str = "agent.tools", kernel_python: KernelPython = _no_kernel) -> Tool:
    """Return the tool of this name or import path, which the configuration's `key` names. Only `install` uses `kernel_python`.

    Raises ConfigError for an unknown name, and for a missing key or library.
    """
    found = find_plugin(name, CATALOG, key=key)
    tool: Tool = found(config, kernel_python) if name in CATALOG else found
    return tool


def check_tool(tool: object, *, taken: Container[str], said: str) -> None:
    """Raise ConfigError for an object that is not a tool, or has a name that is `taken`. `said`: how its message begins."""
    if not isinstance(tool, Tool):
        missing = [part for part in ("name", "parameters", "description", "call") if not hasattr(tool, part)]
        hint = "put @tool (lzero.tools) before the function" if callable(tool) else "see protocols.Tool"
        raise ConfigError(f"{said} is not a tool: it has no {', '.join(missing)} ({hint})")
    if problem := name_problem(tool.name):
        raise ConfigError(
            f"{said} is called {tool.name!r}, which {problem}: give it another name, as in @tool(name=...)"
        )
    parameters = tool.parameters
    if isinstance(parameters, str) or not all(isinstance(each, str) and each.isidentifier() for each in parameters):
        raise ConfigError(f"{said} has parameters {parameters!r:.100}: give a tuple of names, as in ('query',)")
    if len(set(parameters)) != len(parameters):
        raise ConfigError(f"{said} has two parameters of the same name: {', '.join(parameters)}")
    if not isinstance(tool.description, str) or not tool.description.strip():
        raise ConfigError(f"{said} has no description: write one for the model")
    if tool.name in taken:
        raise ConfigError(f"{said} has the name {tool.name!r}, and so has another function of the session: rename it")
