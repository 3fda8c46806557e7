"""Run each call that may block for any time in a new thread: a user's function, the look-up of a host.

The thread pool of an event loop is small and shared: a few hanging calls would delay all others, and keep the process from ending.
"""

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


_CLONE_FS = 0x200


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `function` returns or raises. A cancellation does not wait for it: its thread ends with the function, or with the
    process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type] # there is one where there is no error
        else:
            answer.set_exception(error)

    def run() -> None:
        _leave_shared_directory()
        result: T | None = None
        raised: BaseException | None = None
        try:
            result = context.run(function, *args, **kwargs)
        except (StopIteration, KeyboardInterrupt) as error:  # no future holds the one; the other would pass for Ctrl-C
            raised = RuntimeError(f"{getattr(function, '__name__', function)} raised {type(error).__name__}")
            raised.__cause__ = error
        except BaseException as error:
            raised = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, raised)

    threading.Thread(target=run, name=f"lzero-{getattr(function, '__name__', 'call')}", daemon=True).start()
    return await answer


def _leave_shared_directory() -> None:
    """Give this thread its own working directory (unshare(2)), so that a tool that changes it does not affect the relative paths of others.

    Does nothing if the system does not allow it.
    """
    with suppress(AttributeError, OSError):  # not Linux
        ctypes.CDLL(None).unshare(_CLONE_FS)
