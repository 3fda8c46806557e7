"""A thread for each call of what may block for as long as it likes: a user's function, the look-up of a host.

Threads of an event loop's own pool are few, and everyone's: a handful of calls that hang would keep all others waiting, and the process
from ending.
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
    """What `function` returns or raises. Cancelled, it is not waited for: its thread ends when it does, or with the process."""
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
    """Give this thread a working directory of its own (unshare(2)), so that a tool that changes it does not change the relative paths of
    others. Does nothing if the system does not allow it."""
    with suppress(AttributeError, OSError):  # not Linux
        ctypes.CDLL(None).unshare(_CLONE_FS)
