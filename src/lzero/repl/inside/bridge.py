"""Make tools available in a plain Jupyter kernel for Python: a call is a prompt, which the host answers.

Nothing is installed in the kernel's environment: the host sends this module, `frames` and `stubs` as a first cell.
"""

import builtins
import importlib.util
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from frames import encode
from stubs import Names, ToolError, stub


class Bridge:
    """Sends tool calls to the host, one at a time. `nonce` distinguishes a call from an `input()` of a cell."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._calls = 0
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def ask(self, name: str, arguments: dict[str, Any]) -> Any:
        """Return the host's reply."""
        if os.getpid() != self._pid:
            raise ToolError(
                f"{name} cannot be called from a worker process of a Jupyter kernel: call it in the cell itself, or in threads "
                "(concurrent.futures.ThreadPoolExecutor)"
            )
        with self._lock:
            number = self._calls + 1
            call = encode({"type": "call", "id": number, "name": name, "arguments": arguments}).decode()
            self._calls = number
            try:
                with _interrupts_held_back():
                    # The kernel replaces `input` while a cell runs.
                    return json.loads(builtins.input(self._nonce + call))
            except EOFError:
                raise ToolError("a tool can be called while a cell runs, not between two cells") from None


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Delay KeyboardInterrupt to the end of the block. If ipykernel were interrupted while it sends, half a message would remain.

    The host does not interrupt a cell while it answers its call, so the delay is short.
    """
    if threading.current_thread() is not threading.main_thread():  # others are not interrupted
        yield
        return
    came: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt


def install(names: dict[str, Any], settings: dict[str, Any]) -> None:
    """Seed the random generators, and bind the stubs in the session's `names`."""
    random.seed(settings["seed"])
    if importlib.util.find_spec("numpy") is not None:
        import numpy

        numpy.random.seed(settings["seed"] % 2**32)
    bridge = Bridge(settings["nonce"])
    tools = {tool["name"]: stub(tool, bridge.ask) for tool in settings["tools"]}
    kept = Names(names, {"ToolError": ToolError} | tools)
    _forbid_exit(names)
    if "get_ipython" in names:
        names["get_ipython"]().events.register("post_run_cell", lambda *_: _restore(names, kept))


def _restore(names: dict[str, Any], kept: Names) -> None:
    sys.stderr.write(kept.restore())
    _forbid_exit(names)


def _forbid_exit(names: dict[str, Any]) -> None:
    """Replace IPython's functions of these names, now and whenever IPython restores them."""
    for name in ("exit", "quit"):
        if type(names.get(name)).__module__.startswith("IPython."):
            names[name] = leave


def leave() -> NoReturn:
    """Raise SystemExit, like `sys.exit()`: a session ends with its episode, not when a cell calls `exit()`."""
    raise SystemExit
