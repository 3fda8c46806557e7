"""Gives each REPL a user of its own on the host, if lzero is root.

The kernel counts pages of pipes, watches of epoll objects and descriptors in flight by the user of the host, whatever namespaces a
process is in. So root maps a range of unassigned users into the jail's user namespace, and the zygote runs each REPL as the next one
of them. An ordinary user can map only itself. user_namespaces(7).
"""

import asyncio
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from lzero.errors import SandboxError

NOBODY = 65534
"""The user that the jail runs as, where lzero is root."""
_FIRST, _PLACES, _EACH = 0x7000_0000, 1 << 15, 1 << 13
"""Users from 1,879,048,192 on, which systemd's table (UIDS-GIDS) gives to nobody; the jails of this machine share them out by pid."""


def may_mount() -> bool:
    """Return whether this process is root with CAP_SYS_ADMIN, which root in a container usually lacks."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (effective,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return os.geteuid() == 0 and bool(effective >> 21 & 1)


def available() -> bool:
    """Return whether this process may map those users into a jail: it may mount, and they exist in its own user namespace."""
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()]
    last = _FIRST + _PLACES * _EACH - 1
    return may_mount() and any(int(first) <= _FIRST and last < int(first) + int(count) for first, _, count in ranges)


class Handover:
    """A socket on which bubblewrap names the process that waits for its users, and learns that they are mapped."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._ours, theirs = socket.socketpair()
        self._theirs = [theirs]
        try:
            self._theirs.append(theirs.dup())  # of two processes: one tells, one waits
        except OSError:
            self.close()
            raise
        self._ours.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors that bubblewrap has to inherit."""
        return tuple(each.fileno() for each in self._theirs)

    @property
    def options(self) -> tuple[str, ...]:
        """Options of bubblewrap."""
        tells, waits = self.descriptors
        return ("--unshare-user", "--info-fd", str(tells), "--userns-block-fd", str(waits))

    async def complete(self) -> None:
        """Map the users when the running bubblewrap asks for them; do nothing if it ends before. Raises SandboxError."""
        loop, said = asyncio.get_running_loop(), b""
        for each in self._theirs:
            each.close()
        try:
            while b"}" not in said:
                part = await loop.sock_recv(self._ours, 4096)
                if not part:
                    return
                said += part
            _give(json.loads(said)["child-pid"])
            await loop.sock_sendall(self._ours, b".")
        except OSError as error:
            raise SandboxError(f"cannot give the jail users of its own ({_FIRST} and above): {error}") from None

    def close(self) -> None:
        for each in (self._ours, *self._theirs):
            each.close()


def _give(pid: int) -> None:
    first = _FIRST + pid % _PLACES * _EACH
    for file, text in (("gid_map", f"0 {NOBODY} 1\n"), ("uid_map", f"0 {NOBODY} 1\n1 {first} {_EACH}\n")):
        Path(f"/proc/{pid}/{file}").write_text(text, encoding="ascii")
