"""What an agent may call; the host runs it."""

from lzero.tools.search import PassageIndex, Search

__all__ = ["PassageIndex", "Search"]
