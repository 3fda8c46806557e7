"""Gives each REPL a user of its own on the host, if lzero is root.

The kernel counts pages of pipes, watches of epoll objects and descriptors in flight by the user of the host, whatever namespaces a
process is in. So root maps a range of unassigned users into the jail's user namespace, and the zygote runs each REPL as the next one
of them. An ordinary user can map only itself. user_namespaces(7).
"""

import asyncio
import os
import socket
import subprocess
from pathlib import Path

from lzero.repl import programs

NOBODY = 65534
"""The user that the jail runs as, where lzero is root."""
_FIRST, _PLACES, _EACH = 0x7000_0000, 1 << 15, 1 << 13
"""Users from 1,879,048,192 on, which systemd's table (UIDS-GIDS) gives to nobody; the jails of this machine share them out by pid."""
_TIMEOUT_S = 60.0
_WORD = "made"


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


def as_ordinary_user() -> tuple[str, ...]:
    """Return the prefix of a command that must not run as root; empty if this process is not root. Raises SandboxError."""
    if os.geteuid() != 0:
        return ()
    ids = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return (programs.find("setpriv"), *ids, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")


async def namespace() -> int:
    """Return a descriptor of a new user namespace that has those users. Raises OSError, and SandboxError where a program is missing.

    bubblewrap could make the namespace itself and wait for the users (--userns-block-fd). It then consists of two processes. If the
    host ended meanwhile, the first process would end too, and the second would wait for it forever.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # The shell ends when our end is closed, at the latest.
        command = [*as_ordinary_user(), programs.find("unshare"), "--user", "/bin/sh", "-c", f"echo {_WORD}; read _"]
        end = theirs.fileno()
        process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env={}, cwd="/", start_new_session=True)
        try:
            theirs.close()
            await _made(ours)
            _map(process.pid)
            return os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            process.kill()
            process.wait()


async def _made(shell: socket.socket) -> None:
    """Wait until the shell reports that it is in its namespace. Raises OSError."""
    shell.setblocking(False)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            said = await asyncio.get_running_loop().sock_recv(shell, 4096)
    except TimeoutError:
        raise OSError(f"no user namespace within {_TIMEOUT_S:.0f} s") from None
    if (word := said.decode("utf-8", "replace").strip()) != _WORD:
        raise OSError(f"no user namespace: {word}")


def _map(pid: int) -> None:
    first = _FIRST + pid % _PLACES * _EACH
    for file, text in (("gid_map", f"0 {NOBODY} 1\n"), ("uid_map", f"0 {NOBODY} 1\n1 {first} {_EACH}\n")):
        Path(f"/proc/{pid}/{file}").write_text(text, encoding="ascii")
