"""A host that dies while a jail starts: `python tests/support/starting_host.py SECONDS` kills itself that many seconds after the start."""

import asyncio
import os
import signal
import sys
import time
from subprocess import Popen
from typing import Any

from lzero.repl import LocalPool, jail

_start = jail.start


def start_and_be_killed(*arguments: Any, **options: Any) -> "Popen[bytes]":
    _start(*arguments, **options)
    time.sleep(float(sys.argv[1]))  # and nothing else of this process happens
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it goes on")


if __name__ == "__main__":
    jail.start = start_and_be_killed
    asyncio.run(LocalPool().start())
