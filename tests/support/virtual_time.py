"""An event loop whose clock jumps to the next timer instead of waiting for it: hours take a millisecond, and always come out the same."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    now = 0.0
    has_threads = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None and self.has_threads:
            return super().select(None)
        assert timeout is not None, "every task waits for something that never comes"
        self.now += timeout
        return super().select(0)


class _AtOnce(ThreadPoolExecutor):
    """Calls a function where it is submitted: a thread would take real time."""

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, *, has_threads: bool = False) -> None:
        self._jumping = _Jumping()
        self._jumping.has_threads = has_threads
        super().__init__(self._jumping)
        self.set_default_executor(_AtOnce(1))

    def time(self) -> float:
        return self._jumping.now


def run(main: Coroutine[Any, Any, T], *, has_threads: bool = False) -> T:
    """Run a coroutine that waits for timers and for its own tasks only, or also for threads of its own, while the clock stands still."""
    with asyncio.Runner(loop_factory=partial(_Loop, has_threads=has_threads)) as runner:
        return runner.run(main)
