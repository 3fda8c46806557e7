"""Start a vLLM server, and end it with all its processes, even if lzero is killed."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lzero.errors import EngineError
from lzero.text import one_line

LIFELINE = Path(__file__).with_name("lifeline.py")
END_S = 20.0
"""Seconds that a server and its processes have to end; more than the lifeline's END_S."""
TAIL_CHARS = 2_000


class ServerProcess:
    """Server that listens on a Unix socket in a private directory, where no other user can reach it: vLLM's routes for weights need no key.

    Its process group is killed when this process ends, even by SIGKILL.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], directory: Path) -> None:
        """Start `command`; its output goes to `log` in `directory`. Raises EngineError if it cannot be run."""
        self.log = directory / "log"
        try:
            with self.log.open("ab") as out:
                self._process = subprocess.Popen(
                    (sys.executable, "-I", str(LIFELINE), *command),
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    cwd=directory,
                    start_new_session=True,
                )
        except OSError as error:
            raise EngineError(f"cannot start {command[0]}: {error}") from None

    @property
    def group(self) -> int:
        """The process group of the server and of all that it starts."""
        return self._process.pid

    def check(self) -> None:
        """Raise EngineError, with the end of the log, if the server has ended."""
        if self._process.poll() is not None:
            raise EngineError(f"the vLLM server has ended; the end of its log: {self.tail()}")

    def tail(self) -> str:
        """Return the end of the log, on one line."""
        return one_line(self.log.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARS:])

    async def end(self) -> None:
        """End the server and its processes; return when they are gone. Safe to call twice."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        await asyncio.to_thread(self._wait)

    def kill(self) -> None:
        """Kill the server and its processes at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)

    def _wait(self) -> None:
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait(END_S)
