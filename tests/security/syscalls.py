"""The C library calls that attacks make, and the traces that the host finds."""

import ast
from pathlib import Path

from repl_sessions import value

from lzero.repl import LocalRepl

CALL = """
import ctypes, os, signal, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    ctypes.set_errno(0)
    return 0 if getattr(libc, function)(*arguments) >= 0 else ctypes.get_errno()
def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0
"""
"""Both answer 0, or the errno."""
_NAMES = ("msg", "sem", "shm", "auto_msgmni", "ns_last_pid", "pid_max")
OWN_SETTINGS = ("/proc/sys/fs/mqueue/", *(f"/proc/sys/kernel/{name}" for name in _NAMES))
"""How the settings of the namespaces begin that a session has to itself. It may change them."""


async def answers(repl: LocalRepl, code: str) -> list[int]:
    """Return the list of numbers that a cell after `CALL` ends with."""
    found: list[int] = ast.literal_eval(await value(repl, CALL + code))
    return found


def host_pids(marker: str) -> list[int]:
    """Return the processes of this machine whose command line begins with a word."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if file.read_bytes().startswith(marker.encode()):
                found.append(int(file.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found
