"""Run a command. End its process group when the command ends, or when standard input closes: the starter closes it, or has died.

    python lifeline.py DIRECTORY COMMAND ARGUMENT…

The starter makes the group (`start_new_session`). A vLLM server that is killed leaves its engine processes behind, and processes that are
killed leave their shared memory behind, so this ends the whole group and removes that memory. SIGTERM does it at once. A starter that lives
writes a byte before it closes standard input. If there is none, the starter was killed, so this also removes DIRECTORY, the command's own.
The exit code is the command's, or 128 plus the number of the signal that ended it.

A fork does the work, and this process waits for it: a starter that Ray kills loses its own children with it, and the fork is none of them.
This file is run by its path, and imports only the standard library.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

END_S = 10.0
"""Seconds that the command has to end after SIGTERM."""
REST_S = 5.0
"""Seconds that the other processes have to end after the command."""
KILL_S = 5.0
"""Seconds until killed processes are gone."""
SHARED = re.compile(rb"/dev/shm/(?:psm_|sem\.mp-)\w+$", re.MULTILINE)
"""Shared memory and semaphores of Python's multiprocessing, in a list of mapped files."""


def main(directory: str, command: list[str]) -> int:
    """Run the command in a fork, and hand SIGTERM on to it; return the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    fork = os.fork()
    if not fork:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        return run(directory, command)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(fork, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    return exit_code(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]))


def run(directory: str, command: list[str]) -> int:
    """Run the command until it ends or must end; return its exit code."""
    is_orphan = False
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ended = os.pidfd_open(child.pid)
    try:
        ready, _, _ = select.select([sys.stdin, ended], [], [])
        if sys.stdin in ready:
            is_orphan = not os.read(sys.stdin.fileno(), 1)
        if ended not in ready:
            child.terminate()
            select.select([ended], [], [], END_S)
        wait_for_others(REST_S)
    finally:
        kill_others()
        if is_orphan:
            shutil.rmtree(directory, ignore_errors=True)
    return exit_code(child.wait())


def exit_code(code: int) -> int:
    """Return the exit code for one of a child, which is negative if a signal ended it."""
    return code if code >= 0 else 128 - code


def wait_for_others(seconds: float) -> None:
    """Wait until no command's process is left, at most so long: vLLM's processes remove their shared memory as they end."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at and others():
        time.sleep(0.05)


def kill_others() -> None:
    """Kill the command's processes, and remove what they shared."""
    left: set[bytes] = set()
    ends_at = time.monotonic() + KILL_S
    while time.monotonic() < ends_at and (pids := others()):
        for pid in pids:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", "rb") as file:
                left.update(SHARED.findall(file.read()))
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for path in left:
        with contextlib.suppress(OSError):
            os.unlink(path)
    if others():
        os.killpg(0, signal.SIGKILL)  # this process and its parent included


def others() -> list[int]:
    """Return the processes of this process's group that run, besides this one and its parent."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and in_group(name)]


def in_group(pid: str) -> bool:
    """Return whether a process that runs is in this process's group, and is neither it nor its parent."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, _, group = file.read().rpartition(b")")[2].split()[:3]
    except OSError:
        return False
    return int(pid) not in (os.getpid(), os.getppid()) and int(group) == os.getpgrp() and state not in (b"Z", b"X")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
