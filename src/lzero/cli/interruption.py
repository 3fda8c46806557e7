"""Let Ctrl-C and SIGTERM stop a command at the next point from which it resumes."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """`stop` is set at the first signal. `code` is then the exit code that the signal asks for: 130 after Ctrl-C, 143 after SIGTERM."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.code = 0

    @contextmanager
    def watched(self, on_stop: Callable[[], None], close: Callable[[], None]) -> Iterator[None]:
        """Let a signal set `stop` during the block, and call `on_stop`; a second signal calls `close` and ends the process at once.

        The run then resumes as after a power cut, because every important file is renamed only when it is complete. Sandboxes die with
        their parent. In another thread than the main one, which Python gives no signals, the block runs unwatched.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def stop() -> None:
            on_stop()
            self.stop.set()

        def interrupted(number: int, frame: "FrameType | None") -> None:
            if not self.code:
                self.code = 128 + number
                loop.call_soon_threadsafe(stop)
                return
            close()
            os._exit(self.code)

        before = {number: signal.getsignal(number) for number in SIGNALS}
        # Not loop.add_signal_handler: that waits for the loop's turn, and loading a large model takes a while.
        for number in SIGNALS:
            signal.signal(number, interrupted)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
