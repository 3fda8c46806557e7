"""A live Python session in a jail: `LocalPool.open` forks one from a warm zygote, `run` runs a cell in it."""

from lzero.repl.jail import Limits
from lzero.repl.pool import LocalPool
from lzero.repl.session import LocalRepl

__all__ = ["Limits", "LocalPool", "LocalRepl"]
