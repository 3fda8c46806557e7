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

END_S = 10.0
"""Seconds that the command has to end after SIGTERM."""


def main(command: list[str]) -> None:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ended = os.pidfd_open(child.pid)
    try:
        ready, _, _ = select.select([sys.stdin, ended], [], [])
        if ended not in ready:
            child.terminate()
            select.select([ended], [], [], END_S)
    finally:
        os.killpg(0, signal.SIGKILL)  # this process included


if __name__ == "__main__":
    main(sys.argv[1:])
