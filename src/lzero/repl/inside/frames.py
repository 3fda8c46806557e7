"""Exchange frames with the host, inside a session: length-prefixed JSON over a stream socket, one reader at a time."""

import json
import socket
import struct
from typing import Any

from stubs import plain

MAX_FRAME = 8 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class Closed(Exception):
    """The host has gone, or has closed this REPL."""


def encode(message: dict[str, Any]) -> bytes:
    """Encode a message as JSON. Raises ValueError or TypeError if JSON or a frame cannot hold it."""
    text = json.dumps(message, ensure_ascii=False, allow_nan=False, default=plain, separators=(",", ":"))
    body = text.encode("utf-8", "replace")  # lone surrogates have no UTF-8
    if len(body) > MAX_FRAME:
        raise ValueError(f"{len(body)} bytes are more than a message may hold ({MAX_FRAME})")
    return body


class Channel:
    """Frames over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, message: dict[str, Any]) -> None:
        """Send a message. Raises ValueError or TypeError as `encode` does, before anything is written."""
        body = encode(message)
        self._socket.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self) -> dict[str, Any]:
        """Return the next message. Raises Closed."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        message: dict[str, Any] = json.loads(self._exactly(length))
        return message

    def close(self) -> None:
        """Close this process's end; another process that shares it keeps its own."""
        self._socket.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self._socket.recv(count - len(data))
            if not chunk:
                raise Closed
            data += chunk
        return data
