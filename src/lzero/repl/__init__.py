"""Run live Python sessions in a jail: `LocalPool.open` forks one from a warm zygote, `run` runs a cell in it."""

from typing import TYPE_CHECKING

from lzero.config import ReplConfig
from lzero.repl.jail import Limits
from lzero.repl.keys import check_local
from lzero.repl.pool import LocalPool
from lzero.repl.session import LocalRepl

if TYPE_CHECKING:
    from lzero.repl.jupyter.pool import JupyterPool
    from lzero.repl.remote.pool import RemotePool

__all__ = ["Limits", "LocalPool", "LocalRepl", "open_pool"]


def open_pool(config: ReplConfig, *, session_s: float = 0.0) -> "LocalPool | JupyterPool | RemotePool":
    """Return the pool that the configuration asks for, not started yet. Raises ConfigError for a key without effect.

    `session_s`: seconds that a session may be needed for. At its start, the pool refuses a server that ends its sessions earlier.
    """
    if config.is_elsewhere:
        from lzero.repl.remote.settings import remote_pool

        return remote_pool(config, session_s=session_s)
    check_local(config)
    if config.tier == "unsandboxed":
        from lzero.repl.jupyter.pool import JupyterPool

        return JupyterPool(config)
    return LocalPool(config)
