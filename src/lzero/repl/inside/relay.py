"""Tool calls of forked children, which the session makes for them.

A child has no part in the session's connection: two processes that read from one stream take each other's answers, and one that is
killed in the middle of a frame leaves the rest of it to the other. So a child calls the session, over a connection of its own for
each call, and a thread of the session makes its calls one after another.
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
"""For a child to say what it calls, and to take the answer: one that is stopped does neither, and others wait behind it."""
_RETRY_S = 0.01


class Relay:
    """Made by the session; used by it and by all that is forked from it."""

    def __init__(self, make_call: Callable[[str, dict[str, Any], Callable[[], bool]], dict[str, Any]]) -> None:
        """`make_call(name, arguments, is_wanted)` gives the host's reply; a call that waited until nobody wants it is not made."""
        self._make_call = make_call
        self._is_child = False
        self._address = f"\0lzero {os.urandom(8).hex()}"
        self._door: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Be there for a child that is about to be forked."""
        if self._door is None and not self._is_child:
            door = socket.socket(socket.AF_UNIX)
            door.bind(self._address)
            door.listen(_WAITING_CALLS)
            self._door = door

    def start(self) -> None:
        """Answer the children, from now on. Started after the first fork, since a fork with threads is frowned upon."""
        if self._thread is None and self._door is not None and not self._is_child:
            thread = threading.Thread(target=self._serve, args=(self._door,), name="calls of children", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads; the next fork tries again, and meanwhile a call is refused
                self.close()
            else:
                self._thread = thread

    def become_child(self) -> None:
        """Go on in a process that was forked from the session."""
        self._is_child = True
        if self._door is not None:
            self._door.close()  # without a shutdown: it is the session's

    def close(self) -> None:
        """Answer no child any more; the next fork opens it again."""
        door, self._door = self._door, None
        thread, self._thread = self._thread, None
        if door is not None:
            with suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)  # wakes who waits at it
            door.close()
        if thread is not None:
            thread.join(_PATIENCE_S)

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """In a child: the host's reply. Raises ToolError where the session cannot be reached."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self._address)
                channel = Channel(connection)
                channel.send({"name": name, "arguments": arguments})
                return channel.receive()
        except (Closed, OSError) as error:
            raise ToolError(
                f"{name} could not be called from this process ({error or 'the session did not take the call'}): call it in the cell "
                "itself, or in threads (concurrent.futures.ThreadPoolExecutor)"
            ) from None

    def _serve(self, door: socket.socket) -> None:
        while True:
            try:
                connection, _ = door.accept()
            except OSError:
                if self._door is not door:
                    return
                time.sleep(_RETRY_S)  # out of descriptors, for one
                continue
            with connection, suppress(Exception):  # whatever becomes of one call, the next one is answered
                connection.settimeout(_PATIENCE_S)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        channel = Channel(connection)
        call = channel.receive()
        try:
            reply = self._make_call(call["name"], call["arguments"], lambda: _is_open(connection))
        except ValueError as error:
            reply = {"error": str(error), "value": None}
        channel.send(reply)


def _is_open(connection: socket.socket) -> bool:
    """Whether the other end, which says no more, is still there: an end is all that could be read."""
    return not select.select([connection], [], [], 0)[0]
