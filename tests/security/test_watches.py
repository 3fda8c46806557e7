"""An event loop that can watch no further descriptor, as after fs.epoll.max_user_watches of its user: typed errors, and all ends."""

import asyncio
import errno
import os
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest
from cases import attack
from fault_traces import traces
from repl_sessions import no_tools, run, value

from lzero.errors import ReplError, SandboxError
from lzero.repl import LocalPool

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("own_temporary_directory")]
NAMED = r"No space left on device; raise the sysctl fs\.epoll\.max_user_watches"


class Selector(selectors.DefaultSelector):
    full = False

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().register(fileobj, events, data)


def in_loop_of(selector: Selector, main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(main)


async def open_many(pool: LocalPool) -> None:
    """Open REPLs until one fails: one that answers before the host waits for it does not."""
    while True:
        await pool.open((), no_tools, seed=0)


@attack(67)
def test_repls_that_the_host_can_watch_no_more_fail_with_the_reason() -> None:
    before, selector = traces(), Selector()

    async def main() -> None:
        async with LocalPool() as pool:
            repl, other = [await pool.open((), no_tools, seed=number) for number in range(2)]
            selector.full = True
            with pytest.raises(ReplError, match=NAMED):
                await run(repl, "import time; time.sleep(60)")
            with pytest.raises(ReplError, match=NAMED):
                await open_many(pool)
            await repl.close()
            selector.full = False
            assert await value(other, "6 * 7") == "42"
            selector.full = True

    in_loop_of(selector, main())
    assert traces() == before


@attack(67)
def test_a_zygote_that_the_host_cannot_watch_does_not_start() -> None:
    before, selector = traces(), Selector()

    async def main() -> None:
        pool = LocalPool()
        selector.full = True
        with pytest.raises(SandboxError, match="No space left on device"):
            await pool.start()

    in_loop_of(selector, main())
    assert traces() == before
