"""A thread for each call of what may block for as long as it likes: a user's function, the look-up of a host.

Threads of an event loop's own pool are few, and everyone's: a handful of calls that hang would keep all others waiting, and the process
from ending.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


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
        result: T | None = None
        raised: BaseException | None = None
        try:
            result = context.run(function, *args, **kwargs)
        except StopIteration as error:  # which no future can hold
            raised = RuntimeError(f"{function!r} raised StopIteration")
            raised.__cause__ = error
        except BaseException as error:
            raised = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, raised)

    threading.Thread(target=run, name=f"lzero-{getattr(function, '__name__', 'call')}", daemon=True).start()
    return await answer
