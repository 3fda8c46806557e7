"""Start a vLLM server, and end it with all its processes, even if lzero is killed."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lzero.errors import EngineError
from lzero.text import one_line

LIFELINE = Path(__file__).with_name("lifeline.py")
END_S = 25.0
"""Seconds that a server and its processes have to end; more than the lifeline needs."""
TAIL_BYTES = 2_000
ALIVE = b"."
"""Tells the lifeline that this process ends the server, and was not killed."""


class ServerProcess:
    """Server that listens on a Unix socket in a private directory, where no other user can reach it: vLLM's routes for weights need no key.

    Its process group is killed when this process ends, even by SIGKILL. In that case the directory is removed, too.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], directory: Path) -> None:
        """Start `command`; its output goes to `log` in `directory`. Raises EngineError if it cannot be run."""
        self.log = directory / "log"
        try:
            with self.log.open("ab") as out:
                self._process = subprocess.Popen(
                    (sys.executable, "-I", str(LIFELINE), str(directory), *command),
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

    def has_ended(self) -> bool:
        return self._ends_within(0.0)

    def tail(self) -> str:
        """Return the end of the log, on one line."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return one_line(log.read().decode("utf-8", errors="replace"))

    async def end(self) -> None:
        """End the server and its processes; return when they are gone. Safe to call twice."""
        stdin = self._process.stdin
        assert stdin is not None
        if not stdin.closed:
            with contextlib.suppress(OSError):
                stdin.write(ALIVE)
                stdin.close()
        await asyncio.to_thread(self._wait)

    async def kill(self) -> None:
        """Kill the server and its processes at once; return when they are gone."""
        if not self.has_ended():
            self._process.terminate()
        await self.end()

    def _wait(self) -> None:
        """Wait for the lifeline, which ends the others. Kill what it left: it may have been killed itself."""
        if self._process.returncode is None:
            self._ends_within(END_S)
            with contextlib.suppress(ProcessLookupError):
                # Before it is reaped: until then, no other process group can get this number.
                os.killpg(self.group, signal.SIGKILL)
            self._process.wait(END_S)

    def _ends_within(self, seconds: float) -> bool:
        if self._process.returncode is not None:
            return True
        ended, poll = os.pidfd_open(self._process.pid), select.poll()
        try:
            poll.register(ended, select.POLLIN)
            return bool(poll.poll(seconds * 1_000))
        finally:
            os.close(ended)
