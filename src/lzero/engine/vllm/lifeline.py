"""Run a command. Kill its process group when the command ends, or when standard input closes because the starter has died.

    python lifeline.py COMMAND ARGUMENT…

The starter makes the group (`start_new_session`). A vLLM server that is killed leaves its engine processes and their memory behind, so the
whole group must be killed. This file is run by its path, and imports only the standard library.
"""

import os
import select
import signal
import subprocess
import sys
import time

END_S = 10.0
"""Seconds that the command has to end after SIGTERM."""
REST_S = 5.0
"""Seconds that the other processes have to end after the command."""


def main(command: list[str]) -> None:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ended = os.pidfd_open(child.pid)
    try:
        ready, _, _ = select.select([sys.stdin, ended], [], [])
        if ended not in ready:
            child.terminate()
            select.select([ended], [], [], END_S)
        others_end(REST_S)
    finally:
        os.killpg(0, signal.SIGKILL)  # this process included


def others_end(seconds: float) -> None:
    """Wait until this process is the last of its group, at most so long: vLLM's processes remove their shared memory as they end."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at and any(in_group(name) for name in os.listdir("/proc") if name.isdigit()):
        time.sleep(0.05)


def in_group(pid: str) -> bool:
    """Return whether another process that runs is in this process's group."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, _, group = file.read().rpartition(b")")[2].split()[:3]
    except OSError:
        return False
    return int(pid) != os.getpid() and int(group) == os.getpgrp() and state != b"Z"


if __name__ == "__main__":
    main(sys.argv[1:])
