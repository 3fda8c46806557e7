"""Tools that an agent may call; the host runs them."""

from lzero.tools.function import FunctionTool, tool
from lzero.tools.search import PassageIndex, Search

__all__ = ["FunctionTool", "PassageIndex", "Search", "tool"]
