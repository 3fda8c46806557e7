"""Transfer files of the workspace, in the session itself and with only its own rights.

The host relies on none of this: it checks what it receives.
"""

import base64
import errno
import os
from collections.abc import Iterator
from typing import Any

import beneath
from frames import Channel, Closed
from isolate import HOME


def serve(message: dict[str, Any], channel: Channel) -> None:
    """Execute the host's `put`, `get` or `list`. Refuse what cannot be done, and continue."""
    try:
        match message["type"]:
            case "put":
                _put(message["path"], channel)
            case "get":
                _get(message["path"], message["max_bytes"], message["chunk_bytes"], channel)
            case "list":
                files = _list(message["max_files"], message["max_bytes"])
                channel.send({"type": "listing", "files": files})
    except (Closed, ConnectionError):
        raise
    except Exception as error:  # a cell may have changed anything that this code uses
        channel.send({"type": "refused", "errno": getattr(error, "errno", None) or errno.EIO})


def _put(path: str, channel: Channel) -> None:
    chunks = _chunks(channel)
    try:
        with beneath.written(HOME, path) as file:
            file.writelines(chunks)
    finally:
        for _ in chunks:  # the host sends all of it, even after a failure
            pass
    channel.send({"type": "stored"})


def _chunks(channel: Channel) -> Iterator[bytes]:
    while True:
        message = channel.receive()
        yield base64.b64decode(message["data"])
        if message["last"]:
            return


def _get(path: str, max_bytes: int, chunk_bytes: int, channel: Channel) -> None:
    with beneath.opened(HOME, path) as file:
        left = os.fstat(file.fileno()).st_size
        if left > max_bytes:
            raise OSError(errno.EFBIG, "too large")
        while True:  # reads no more if the file grows meanwhile
            data = file.read(min(chunk_bytes, left))
            left -= len(data)
            last = left <= 0 or len(data) < chunk_bytes
            channel.send({"type": "chunk", "data": base64.b64encode(data).decode(), "last": last})
            if last:
                return


def _list(max_files: int, max_bytes: int) -> list[dict[str, Any]]:
    files = []
    room = max_bytes
    for path, size in beneath.regular_files(HOME):
        files.append({"path": path, "size": size})
        room -= 6 * len(path) + 64  # a character may take six in JSON
        if len(files) > max_files or room < 0:
            raise OSError(errno.E2BIG, "more than a listing may hold")
    return files
