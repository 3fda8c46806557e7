"""A live Python session: runs cells, answers with their outputs, asks the host to run tools.

Nothing here is trusted by the host: the cells share this process and may forge any frame.
"""

import gc
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import workspace
from capture import Outputs, Stream
from frames import Channel, Closed
from shell import Shell
from stubs import ToolError, stub


class Interrupts:
    """SIGINT becomes KeyboardInterrupt in a cell, and waits while a frame is on the wire.

    Between two cells it is either late, for the cell that has ended, or early, for the one that has come and not begun: on a busy
    machine both are the rule. The host says which of them it can be.
    """

    def __init__(self) -> None:
        self._in_cell = False
        self._between = 0
        self._met = False
        """Whether the last cell, or the one that runs, has met one."""
        self._held = False
        self._pending = False
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        if self._held:
            self._pending = True
        elif self._in_cell:
            self._met = True
            raise KeyboardInterrupt
        else:
            self._between += 1

    def start_again(self) -> None:
        """None was meant for the cells to come."""
        self._between = 0

    @contextmanager
    def cell(self, *, after_interrupt: bool) -> Iterator[None]:
        """`after_interrupt`: the host has interrupted the last one."""
        self._pending, self._in_cell = False, True
        try:
            num_late = int(after_interrupt and not self._met)
            num_between, self._between, self._met = self._between, 0, False
            if num_between > num_late:
                self._met = True
                raise KeyboardInterrupt
            yield
        finally:
            self._in_cell = False

    @contextmanager
    def held(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending:
                self._pending = False
                signal.raise_signal(signal.SIGINT)


class Tools:
    """Stubs: plain functions that ask the host and return its value, or raise ToolError."""

    def __init__(self, channel: Channel, interrupts: Interrupts) -> None:
        self._channel = channel
        self._interrupts = interrupts
        self._calls = 0
        self.lock = threading.Lock()
        """Held by whoever waits for a frame."""

    def start_again(self) -> None:
        """Count calls from 1."""
        self._calls = 0

    def stub(self, tool: dict[str, Any]) -> Any:
        return stub(tool, self._ask)

    def _ask(self, name: str, arguments: dict[str, Any]) -> Any:
        with self.lock, self._interrupts.held():
            self._channel.send({"type": "call", "id": self._calls + 1, "name": name, "arguments": arguments})
            self._calls += 1
            while (reply := self._channel.receive())["type"] == "get":  # the tool wants to see a file first
                workspace.serve(reply, self._channel)
        if reply["error"] is not None:
            raise ToolError(reply["error"])
        return reply["value"]


class Kernel:
    """One session over one socket."""

    def __init__(self, shell: Shell, connection: socket.socket) -> None:
        self._shell = shell
        self._channel = Channel(connection)
        self._interrupts = Interrupts()
        self._tools = Tools(self._channel, self._interrupts)
        self._streams = self._capture()
        self._pid = os.getpid()

    def serve(self) -> None:
        """Until the host closes the socket."""
        try:
            self._open(self._channel.receive())
            with self._tools.lock:
                message = self._next_cell()
            while True:
                status = self._run(message["code"], message["after_interrupt"])
                if os.getpid() != self._pid:
                    os._exit(0)  # forked by the cell, and come to the cell's end too: it is not the session
                message = self._finish(message["id"], status)
        except (Closed, ConnectionError):
            pass

    def _open(self, message: dict[str, Any]) -> None:
        random.seed(message["seed"])
        numpy.random.seed(message["seed"] % 2**32)
        self._shell.outputs.limit = message["output_chars"]
        tools = {tool["name"]: self._tools.stub(tool) for tool in message["tools"]}
        self._shell.push({"ToolError": ToolError, "_dh": [os.getcwd()], **tools}, interactive=False)
        sys.path.insert(0, "")  # what stands in the workspace can be imported, as in IPython
        gc.enable()
        self._channel.send({"type": "ready"})

    def _run(self, code: str, after_interrupt: bool) -> str:
        sys.stdout, sys.stderr = self._streams
        try:
            with self._interrupts.cell(after_interrupt=after_interrupt):
                result = self._shell.run_cell(code, store_history=True)
        except KeyboardInterrupt as interrupt:  # outside of the user's code, but in its time
            self._shell.outputs.error("KeyboardInterrupt", "", ["KeyboardInterrupt"])
            del interrupt
            return "error"
        return "ok" if result.success else "error"

    def _finish(self, number: int, status: str) -> dict[str, Any]:
        """Tell the host, and wait for the next cell. A thread that a cell left behind cannot call a tool in between: the
        next cell would be taken for its answer."""
        outputs = self._shell.outputs.take()
        with self._tools.lock:
            self._channel.send({"type": "done", "id": number, "status": status, "outputs": outputs})
            return self._next_cell()

    def _next_cell(self) -> dict[str, Any]:
        """What the host wants run next; until then, files go in and out as it asks. The caller holds the lock."""
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
        """About to be copied: let go of what a copy could not have, and is made anew where it is needed."""
        self._shell.close_idle_loop()
        self._channel.send({"type": "ready"})

    def _renew(self, seed: int) -> None:
        """This is a copy: what was drawn at random in common ends here, and its calls are its own."""
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        self._tools.start_again()
        self._interrupts.start_again()
        self._channel.send({"type": "ready"})

    def _capture(self) -> tuple[Stream, Stream]:
        """Descriptors 1 and 2 become files in memory; what Python writes goes straight to the outputs."""
        descriptors = {}
        for name, number in (("stdout", 1), ("stderr", 2)):
            file = os.memfd_create(name)
            writer = os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_APPEND)
            os.dup2(writer, number)
            os.close(writer)
            descriptors[name] = file
        outputs = Outputs(descriptors)
        self._shell.outputs = outputs
        return Stream("stdout", outputs, 1), Stream("stderr", outputs, 2)
