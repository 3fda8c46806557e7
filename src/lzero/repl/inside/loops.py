"""The event loop of a session: one for all its cells, made when something first needs it.

No loop runs while a cell without a top-level `await` runs, so `asyncio.run` and `loop.run_until_complete` work, as in a script. A
task that such a cell creates waits in the session's loop, as in a notebook. Tasks run while a cell awaits, and for a moment
before and after each cell; between two cells they pause.
"""

import asyncio
import functools
import os
import threading
import warnings
from contextlib import suppress
from typing import Any

from IPython.core import async_helpers

_MOMENT_S = 0.005

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.14 says that policies will go with 3.16
    _Policy = asyncio.DefaultEventLoopPolicy


class _Loops(_Policy):
    """`asyncio.get_event_loop()` in the main thread is the session's loop, unless a cell has set another one that is still open."""

    _chosen: asyncio.AbstractEventLoop | None = None

    def set_event_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        super().set_event_loop(loop)
        if threading.current_thread() is threading.main_thread():
            self._chosen = loop

    def get_event_loop(self) -> asyncio.AbstractEventLoop:
        if threading.current_thread() is not threading.main_thread():
            return super().get_event_loop()
        if self._chosen is None or self._chosen.is_closed():
            self.set_event_loop(async_helpers.get_asyncio_loop())
        assert self._chosen is not None
        return self._chosen


_plain_create_task = asyncio.create_task


@functools.wraps(_plain_create_task)
def _create_task(coro: Any, **options: Any) -> Any:
    """Create a task in the running loop, or else in the session's loop."""
    if asyncio._get_running_loop() is None and threading.current_thread() is threading.main_thread():
        return async_helpers.get_asyncio_loop().create_task(coro, **options)
    return _plain_create_task(coro, **options)


def install() -> None:
    """Make asyncio and IPython's `await` share one loop, in this process and in those that it forks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(_Loops())
    asyncio.create_task = asyncio.tasks.create_task = _create_task
    os.register_at_fork(after_in_child=_forget)  # a child would share what its parent's loop waits for


def go_on() -> None:
    """Run the tasks of the session's loop for a moment. Their exceptions stay in the tasks; an interrupt reaches the caller."""
    loop = async_helpers._asyncio_event_loop
    if loop is None or loop.is_closed() or asyncio._get_running_loop() is not None:
        return
    if asyncio.all_tasks(loop):
        with suppress(SystemExit):
            loop.run_until_complete(asyncio.sleep(_MOMENT_S))


def close_idle() -> None:
    """Close the session's loop unless a task waits in it; the next use makes a new one."""
    loop = async_helpers._asyncio_event_loop
    if loop is not None and not loop.is_closed() and not asyncio.all_tasks(loop):
        loop.close()
        _forget()


def _forget() -> None:
    async_helpers._asyncio_event_loop = None
    asyncio.set_event_loop(None)
