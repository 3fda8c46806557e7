"""Run a live Python session: execute cells, return their outputs, send tool calls to the host.

The host trusts nothing from here: the cells share this process and may forge any frame.
"""

import gc
import io
import json
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import loops
import numpy
import workspace
from capture import DESCRIPTORS, Outputs
from frames import Channel, Closed, encode
from relay import Relay
from shell import Shell
from stubs import Names, ToolError, stub

_MODULE = {"__name__": "__main__", "__doc__": None, "__package__": None, "__loader__": None, "__spec__": None}
"""Module attributes: multiprocessing reads some of them, and class statements the name."""
_TURN_S = 0.05
"""Seconds after which a tool call that waits for its turn checks whether it is still wanted."""


class Interrupts:
    """Turns SIGINT into KeyboardInterrupt in a cell, and delays it while a frame is on the wire.

    An interrupt between two cells is late, for the ended cell, or early, for a cell that has arrived and not begun. On a busy machine both
    are common, and the host tells which it can be.
    """

    def __init__(self) -> None:
        self._in_cell = False
        self._between = 0
        self.met = 0
        """Number of interrupts that reached the last or the running cell."""
        self._held = False
        self._pending = False
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        if self._held:
            self._pending = True
        elif self._in_cell:
            self.met += 1
            raise KeyboardInterrupt
        else:
            self._between += 1

    def become_child(self) -> None:
        """Switch to the child's role: in a process forked from the session, an interrupt is an ordinary KeyboardInterrupt."""
        self._in_cell, self._held = True, False

    def start_again(self) -> None:
        """Forget the interrupts so far; none was meant for later cells."""
        self._between = 0

    @contextmanager
    def cell(self, *, sent: int) -> Iterator[None]:
        """Deliver interrupts in the block to the cell. `sent`: number of times that the host interrupted the last cell."""
        self._pending, self._in_cell = False, True
        try:
            num_late = max(0, sent - self.met)
            num_between, self._between, self.met = self._between, 0, 0
            if num_between > num_late:
                self.met = 1
                raise KeyboardInterrupt
            yield
        finally:
            self._in_cell = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay an interrupt to the end of the block, if this is the thread that would receive it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending:
                self._pending = False
                signal.raise_signal(signal.SIGINT)


class Tools:
    """Asks the host for what tools return, one call at a time."""

    def __init__(self, channel: Channel, interrupts: Interrupts) -> None:
        self._channel = channel
        self._interrupts = interrupts
        self._calls = 0
        self.lock = threading.Lock()
        """Held by the thread that waits for a frame."""
        self._relay = Relay(self._call_of_child)
        self._is_child = False
        os.register_at_fork(
            before=self._relay.open, after_in_parent=self._relay.start, after_in_child=self._become_child
        )

    def start_again(self) -> None:
        """Count calls from 1."""
        self._calls = 0

    def settle(self) -> None:
        """Close the relay between two cells if no child is left."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            self._relay.close()

    def ask(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the host's reply."""
        arguments = json.loads(encode(arguments))  # before the lock: it may run the cell's code for any time
        return self._relay.call(name, arguments) if self._is_child else self._call(name, arguments)

    def _call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        with self.lock, self._interrupts.held():
            return self._exchange(name, arguments)

    def _call_of_child(self, name: str, arguments: dict[str, Any], is_wanted: Callable[[], bool]) -> dict[str, Any]:
        """Make a child's call in the relay's thread, which interrupts do not reach.

        Raises Closed if the call is no longer wanted; its turn may come only with the next cell.
        """
        while not self.lock.acquire(timeout=_TURN_S):
            if not is_wanted():
                raise Closed
        try:
            if not is_wanted():
                raise Closed
            return self._exchange(name, arguments)
        finally:
            self.lock.release()

    def _exchange(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Send a call, and return its reply. The caller holds the lock."""
        self._channel.send({"type": "call", "id": self._calls + 1, "name": name, "arguments": arguments})
        self._calls += 1
        while (reply := self._channel.receive())["type"] == "get":  # the tool wants to see a file first
            workspace.serve(reply, self._channel)
        return reply

    def _become_child(self) -> None:
        self._is_child = True
        self._interrupts.become_child()
        self._relay.become_child()
        self._channel.close()


class Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of a cell."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, name: str, outputs: Outputs) -> None:
        self._name = name
        self._outputs = outputs

    @property
    def name(self) -> str:
        return f"<{self._name}>"

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._outputs.write(self._name, text)
        return len(text)

    def flush(self) -> None:
        self._outputs.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return DESCRIPTORS[self._name]


class Kernel:
    """One session over one socket."""

    def __init__(self, shell: Shell, connection: socket.socket) -> None:
        self._shell = shell
        self._channel = Channel(connection)
        self._interrupts = Interrupts()
        self._tools = Tools(self._channel, self._interrupts)
        self._streams = self._capture()
        os.register_at_fork(after_in_child=self._shell.outputs.become_child)
        self._pid = os.getpid()
        self._names = Names({}, {})

    def serve(self) -> None:
        """Run cells until the host closes the socket."""
        try:
            self._open(self._channel.receive())
            with self._tools.lock:
                message = self._next_cell()
            while True:
                status = self._run(message["code"], message["interrupts"])
                message = self._finish(message["id"], status)
        except (Closed, ConnectionError):
            pass

    def _open(self, message: dict[str, Any]) -> None:
        random.seed(message["seed"])
        numpy.random.seed(message["seed"] % 2**32)
        self._shell.outputs.limit = message["output_chars"]
        given = {"ToolError": ToolError} | {tool["name"]: stub(tool, self._tools.ask) for tool in message["tools"]}
        self._shell.push({"_dh": [os.getcwd()], **_MODULE, **given}, interactive=False)
        self._names = Names(self._shell.user_ns, given)
        self._shell.events.callbacks["post_execute"].insert(0, self._close_figures)  # before they are drawn
        sys.path.insert(0, "")  # cells can import modules of the workspace, as in IPython
        gc.enable()
        self._channel.send({"type": "ready"})

    def _run(self, code: str, interrupts: int) -> str:
        sys.stdout, sys.stderr = self._streams
        try:
            with self._interrupts.cell(sent=interrupts):
                result = self._shell.run_cell(code, store_history=True)
            status = "ok" if result.success else "error"
            error = result.error_in_exec or result.error_before_exec
        except KeyboardInterrupt as interrupt:  # outside of the cell's code, but within its time
            self._shell.outputs.error("KeyboardInterrupt", "", ["KeyboardInterrupt"])
            status, error = "error", interrupt
        if os.getpid() != self._pid:
            self._end_child(error)
        self._restore_names()
        return status

    def _end_child(self, error: BaseException | None) -> NoReturn:
        """End a forked child that reached the end of the cell: only the session itself goes on."""
        self._shell.outputs.flush()
        code = error.code if isinstance(error, SystemExit) else error
        os._exit(code & 0xFF if isinstance(code, int) else code is not None)

    def _restore_names(self) -> None:
        names = self._shell.user_ns
        for name, value in _MODULE.items():
            names.setdefault(name, value)
        if "_oh" not in names:  # without IPython's own names, no result is shown
            self._shell.init_user_ns()
        if note := self._names.restore():
            self._shell.outputs.write("stderr", note)

    def _close_figures(self) -> None:
        """Close open figures after an interrupt: drawing them may take longer than the time that the cell has left."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if self._interrupts.met and pyplot and "inline" in pyplot.get_backend() and (numbers := pyplot.get_fignums()):
            pyplot.close("all")
            note = f"[open figures ({len(numbers)}) were closed and not drawn: the cell was interrupted]\n"
            self._shell.outputs.write("stderr", note)

    def _finish(self, number: int, status: str) -> dict[str, Any]:
        """Send the cell's outputs to the host, and wait for the next cell.

        A thread of an earlier cell cannot call a tool in between: it would take the next cell for its answer.
        """
        outputs = self._shell.outputs.take()
        with self._tools.lock:
            self._channel.send({"type": "done", "id": number, "status": status, "outputs": outputs})
            return self._next_cell()

    def _next_cell(self) -> dict[str, Any]:
        """Return the next cell; until it comes, transfer files as the host asks. The caller holds the lock."""
        while True:
            message = self._channel.receive()
            if message["type"] == "run":
                return message
            if message["type"] == "settle":
                self._settle()
            elif message["type"] == "renew":
                self._renew(message["seed"])
            else:
                workspace.serve(message, self._channel)

    def _settle(self) -> None:
        """Prepare to be copied: release resources that a copy cannot have. They are made again when needed."""
        loops.close_idle()
        self._shell.outputs.rewind()
        self._tools.settle()
        self._channel.send({"type": "ready"})

    def _renew(self, seed: int) -> None:
        """Continue as a copy, with its own seeds and its own numbers of calls."""
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        self._tools.start_again()
        self._interrupts.start_again()
        self._channel.send({"type": "ready"})

    def _capture(self) -> tuple[Stream, Stream]:
        """Replace descriptors 1 and 2 with files in memory, and return streams that write Python's output directly to the outputs."""
        descriptors = {}
        for name, number in DESCRIPTORS.items():
            file = os.memfd_create(name)
            writer = os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_APPEND)
            os.dup2(writer, number)
            os.close(writer)
            descriptors[name] = file
        outputs = Outputs(descriptors)
        self._shell.outputs = outputs
        return Stream("stdout", outputs), Stream("stderr", outputs)
