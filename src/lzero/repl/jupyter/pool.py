"""Open plain Jupyter kernels of any installed kernelspec as REPLs. They have no sandbox, but the rights of the user who runs lzero."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from lzero.closing import Service, closed_on_error
from lzero.config import ReplConfig
from lzero.errors import ConfigError, ReplError
from lzero.protocols import OnCall, ToolSpec
from lzero.repl import watchdog
from lzero.repl.keys import UNSANDBOXED, check_acting
from lzero.types import Json

if TYPE_CHECKING:
    import zmq.asyncio

    from lzero.repl.jupyter.session import JupyterRepl

logger = logging.getLogger(__name__)
_OPENING_AT_ONCE = 8


class JupyterPool(Service):
    """Pool of plain Jupyter kernels; implements `ReplPool`.

        async with JupyterPool(config.repl) as pool:
            repl = await pool.open(tools, on_call, seed=7)

    A Python kernel gets its stubs and seeds in a first cell. A kernel of another language runs without tools.
    """

    def __init__(self, config: ReplConfig | None = None) -> None:
        """Raise ConfigError for a key without effect."""
        self._config = config or ReplConfig(tier="unsandboxed")
        check_acting(self._config, UNSANDBOXED, "repl.tier = 'unsandboxed' is a plain Jupyter kernel")
        self._language = ""
        self._context: zmq.asyncio.Context | None = None
        self._opening = asyncio.Semaphore(_OPENING_AT_ONCE)
        self._repls: set[JupyterRepl] = set()
        self._opened = 0
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Find the kernelspec. Raises ConfigError if it, or jupyter_client, is not installed."""
        self._language = await asyncio.to_thread(_language_of, self._config.kernelspec)
        from lzero.repl.jupyter.kernel import new_context, sweep

        logger.warning(
            "REPLs are plain Jupyter kernels (%s), unsandboxed, with all your rights: run only code that you would run yourself",
            self._config.kernelspec,
        )
        await sweep()
        self._context = new_context()
        self._watching = asyncio.create_task(
            watchdog.watch(lambda: self._repls, watchdog.Bounds.of(self._config, self._config.memory_mb << 20))
        )

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> "JupyterRepl":
        """Start a kernel. Raises ReplError; SandboxError without a watchdog; ConfigError for tools in a language without stubs."""
        from lzero.repl.jupyter.kernel import Kernel
        from lzero.repl.jupyter.session import JupyterRepl

        if self._closed or self._context is None:
            raise ReplError("the pool is closed" if self._closed else "the pool has not been started")
        watchdog.require(self._watching)
        if tools and self._language != "python":
            raise ConfigError(
                f"repl.kernelspec = {self._config.kernelspec!r} runs {self._language}, but tools work in Python kernels only"
            )
        async with self._opening:
            repl = JupyterRepl(await Kernel.start(self._config.kernelspec, self._context), on_call, self._config)
            self._repls.add(repl)
            repl.on_close = lambda: self._repls.discard(repl)
            async with closed_on_error(repl.close):
                if self._closed:
                    raise ReplError("the pool is closed")
                if self._language == "python":
                    await repl.become(tools, seed)
        self._opened += 1
        return repl

    async def close(self) -> None:
        """Close every kernel, and leave nothing behind."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*(repl.close() for repl in list(self._repls)))
        context, self._context = self._context, None
        if context is not None:
            context.destroy(linger=0)

    def stats(self) -> Mapping[str, float]:
        """Return the number of REPLs `open` now and `opened` in all."""
        return {"open": len(self._repls), "opened": self._opened}

    def facts(self) -> Mapping[str, Json]:
        """Return the tier, kernelspec and language, for the record. Nothing isolates these REPLs."""
        return {"tier": self._config.tier, "kernelspec": self._config.kernelspec, "language": self._language}


def _language_of(kernelspec: str) -> str:
    """Return the kernelspec's language in lower case. Raises ConfigError if it, or jupyter_client, is not installed."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError as error:
        raise ConfigError(
            f"repl.tier = 'unsandboxed' needs jupyter_client ({error}): pip install 'lzero[jupyter]'"
        ) from None
    specs = KernelSpecManager()
    try:
        return str(specs.get_kernel_spec(kernelspec).language).lower()
    except NoSuchKernel:
        installed = sorted(specs.find_kernel_specs())
        near = get_close_matches(kernelspec, installed, n=1, cutoff=0.0)
        raise ConfigError(
            f"repl.kernelspec = {kernelspec!r} is not installed; {f'did you mean {near[0]!r}?' if near else 'no kernel is installed'}"
        ) from None
