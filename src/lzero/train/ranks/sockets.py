"""End gloo's connections. gloo has no call for this, so this module notes its sockets as they are opened, and shuts them down."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Environment variable that names the interface at which gloo listens."""


class Sockets:
    """Sockets that this process has opened in some blocks. Finds none where there is no /proc.

    `interface`: where gloo listens if it is started in such a block, unless the environment says where. By default, it listens at
    the address to which the name of this machine resolves.
    """

    def __init__(self, interface: str | None = None) -> None:
        self._interface = interface
        self._own: set[str] = set()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Remember the sockets that are new after the block. A socket that another thread opens meanwhile is taken for one of them."""
        before = set(_sockets().values())
        chosen = self._interface if INTERFACE not in os.environ else None
        if chosen:
            os.environ[INTERFACE] = chosen
        try:
            yield
        finally:
            if chosen:
                del os.environ[INTERFACE]  # programs of the run do not inherit it
        self._own |= set(_sockets().values()) - before

    def shut(self) -> None:
        """End the connections of these sockets, so that every thread that waits for one gets an error. Their descriptors stay open."""
        for descriptor, name in _sockets().items():
            if name in self._own:
                with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as own:  # closed meanwhile
                    if not own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        own.shutdown(socket.SHUT_RDWR)


def _sockets() -> dict[int, str]:
    """Return descriptor → name of each socket of this process, as "socket:[12345]". Descriptors are used again; names are not."""
    found = {}
    with suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if (name := os.readlink(entry)).startswith("socket:"):
                    found[int(entry.name)] = name
    return found
