"""Relay: the session makes the tool calls of its forked children.

A child cannot use the session's connection: two processes that read one stream would take each other's answers, and a process killed
in the middle of a frame would corrupt the stream. So a child opens a connection to the session for each call, and a thread of the
session makes these calls one after another.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from frames import Channel, Closed
from stubs import ToolError

_WAITING_CALLS = 64
_PATIENCE_S = 10.0
"""Deadline for a child to send its call and to take the answer: other children wait behind one that is stopped."""
_RETRY_S = 0.01


class Relay:
    """Passes tool calls from forked children to the session. The session makes it, and its children inherit it."""

    def __init__(self, make_call: Callable[[str, dict[str, Any], Callable[[], bool]], dict[str, Any]]) -> None:
        """`make_call(name, arguments, is_wanted)` returns the host's reply; it makes no call once `is_wanted()` is false."""
        self._make_call = make_call
        self._is_child = False
        self._address = f"\0lzero {os.urandom(8).hex()}"
        self._door: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start to listen, before a child is forked. Where no descriptor is free, the child's calls are refused."""
        if self._door is None and not self._is_child:
            with suppress(OSError):
                door = socket.socket(socket.AF_UNIX)
                door.bind(self._address)
                door.listen(_WAITING_CALLS)
                self._door = door

    def start(self) -> None:
        """Start the thread that answers children. It starts after the first fork, because forking with threads is unsafe."""
        if self._thread is None and self._door is not None and not self._is_child:
            thread = threading.Thread(target=self._serve, args=(self._door,), name="calls of children", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads; the next fork tries again, and meanwhile a call is refused
                self.close()
            else:
                self._thread = thread

    def become_child(self) -> None:
        """Switch to the child's role, in a process that was forked from the session."""
        self._is_child = True
        if self._door is not None:
            self._door.close()  # without a shutdown: it is the session's

    def close(self) -> None:
        """Stop answering children; the next fork opens the relay again."""
        door, self._door = self._door, None
        thread, self._thread = self._thread, None
        if door is not None:
            with suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            door.close()
        if thread is not None:
            thread.join(_PATIENCE_S)

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the host's reply to a child's call. Raises ToolError if the session cannot be reached."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self._address)
                channel = Channel(connection)
                channel.send({"name": name, "arguments": arguments})
                return channel.receive()
        except (Closed, OSError) as error:
            reason = str(error) or "the session did not take the call"
            raise ToolError(
                f"{name} could not be called from this process ({reason}): call it in the cell itself, or in threads "
                "(concurrent.futures.ThreadPoolExecutor)"
            ) from None

    def _serve(self, door: socket.socket) -> None:
        while True:
            try:
                connection, _ = door.accept()
            except OSError:
                if self._door is not door:
                    return
                time.sleep(_RETRY_S)  # for example, no descriptor is free
                continue
            with connection, suppress(Exception):  # a broken call must not stop the next one
                connection.settimeout(_PATIENCE_S)
                self._answer(connection, door)

    def _answer(self, connection: socket.socket, door: socket.socket) -> None:
        channel = Channel(connection)
        call = channel.receive()
        try:
            reply = self._make_call(
                call["name"], call["arguments"], lambda: self._door is door and _is_open(connection)
            )
        except ValueError as error:
            reply = {"error": str(error), "value": None}
        channel.send(reply)


def _is_open(connection: socket.socket) -> bool:
    """Return whether the child still waits. It sends nothing after its call, so only the end of the connection is readable."""
    return not select.select([connection], [], [], 0)[0]
