"""Start programs on this machine, and end each with all its processes, even if lzero is killed."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from lzero.closing import Service
from lzero.errors import LaunchError
from lzero.launch.protocol import HOST, PORT, PYTHON, Node, Program, Role
from lzero.temporary import OwnedDirectory, sweep
from lzero.text import one_line

LIFELINE = Path(__file__).with_name("lifeline.py")
END_S = 25.0
"""Seconds that a program and its processes have to end; more than the lifeline needs."""
TAIL_BYTES = 2_000
READ_BYTES = 1 << 20
"""The most bytes that are read of a file in a program's directory."""
ALIVE = b"."
"""Tells the lifeline that this process ends the program, and was not killed."""
LOOPBACK = "127.0.0.1"


class LocalProcess:
    """Program of this machine, in a process group of its own; implements `Running`.

    The group is killed when this process ends, even by SIGKILL. In that case the directory is removed, too. A program may listen on a Unix
    socket in its directory, where no other user can reach it.
    """

    host = LOOPBACK

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], directory: Path, port: int = 0
    ) -> None:
        """Start `command`; its output goes to `log` in `directory`. `port`: the port that the command listens on; 0 for none.

        Raises LaunchError if it cannot be run.
        """
        self.port = port
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
            raise LaunchError(f"cannot start {command[0]}: {error}") from None
        self._cause = ""
        self._waiting = threading.Lock()
        """Held by the thread that waits for the end."""
        self._pid_lock = threading.Lock()
        """Held to signal the process, and to reap it: afterwards, its pid may be another process's."""

    @property
    def group(self) -> int:
        """The process group of the program and of all that it starts."""
        return self._process.pid

    def end_cause(self) -> str:
        """Return how the program ended: its exit code, or the signal; "" while it runs. Safe in any thread."""
        if not self._cause:
            with contextlib.suppress(ChildProcessError):  # `_wait` has reaped it meanwhile, and noted the cause
                self._cause = _cause_of(self._process.pid)
        return self._cause

    async def ended(self) -> str:
        """Wait until the program has ended; return how."""
        if not self.end_cause():
            loop, over = asyncio.get_running_loop(), asyncio.Event()
            with self._pid_lock:
                if self._process.returncode is not None:
                    return self._cause
                descriptor = os.pidfd_open(self._process.pid)
            loop.add_reader(descriptor, over.set)
            try:
                await over.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        return self.end_cause()

    async def tail(self) -> str:
        """Return the end of the log, on one line."""
        return one_line(self._last(self.log.name, TAIL_BYTES).decode("utf-8", errors="replace"))

    async def read(self, name: str) -> bytes:
        """Return the last megabyte of a file in the program's directory; nothing if there is none."""
        return self._last(name, READ_BYTES)

    async def end(self) -> None:
        """End the program and its processes; return when they are gone. Safe to call twice."""
        stdin = self._process.stdin
        assert stdin is not None
        if not stdin.closed:
            with contextlib.suppress(OSError):
                stdin.write(ALIVE)
                stdin.close()
        await asyncio.to_thread(self._wait)

    async def kill(self) -> None:
        """Kill the program and its processes at once; return when they are gone. Safe to call twice."""
        with self._pid_lock:
            if self._process.returncode is None:
                os.kill(self._process.pid, signal.SIGTERM)  # not `terminate`, which may reap it
        await self.end()

    def _last(self, name: str, num_bytes: int) -> bytes:
        try:
            with self.log.with_name(name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - num_bytes))
                return file.read(num_bytes)
        except OSError:
            return b""

    def _wait(self) -> None:
        """Wait for the lifeline, which ends the others. Kill what it left: it may have been killed itself."""
        with self._waiting:
            if self._process.returncode is not None:
                return
            self._ends_within(END_S)
            with contextlib.suppress(ProcessLookupError):
                # Before it is reaped: until then, no other process group can get this number.
                os.killpg(self.group, signal.SIGKILL)
            self._ends_within(END_S)
            self._cause = self.end_cause() or "ended"
            with self._pid_lock:
                self._process.wait(END_S)

    def _ends_within(self, seconds: float) -> bool:
        ended, poll = os.pidfd_open(self._process.pid), select.poll()
        try:
            poll.register(ended, select.POLLIN)
            return bool(poll.poll(seconds * 1_000))
        finally:
            os.close(ended)


def _cause_of(pid: int) -> str:
    """Return how a child ended, without reaping it; "" while it runs."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return ""
    killed = found.si_code != os.CLD_EXITED
    if not killed and found.si_status <= _BY_SIGNAL:
        return f"ended with code {found.si_status}"
    number = found.si_status if killed else found.si_status - _BY_SIGNAL
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:  # of no signal: `sys.exit(-1)` ends with code 255
        return f"was killed by signal {number}" if killed else f"ended with code {found.si_status}"


_BY_SIGNAL = 128
"""The lifeline adds this to the number of the signal that ended the program."""


class LocalLauncher(Service):
    """Starts programs on this machine; implements `Launcher`."""

    host = LOOPBACK

    def __init__(self) -> None:
        self._started: list[LocalProcess] = []
        self._directories: list[OwnedDirectory] = []

    async def start(self) -> None:
        """Do nothing: this machine is there."""

    async def nodes(self, role: Role) -> tuple[Node, ...]:
        """Return this machine."""
        return (Node(id="", host=LOOPBACK),)

    async def check(self, programs: Sequence[Program]) -> None:
        """Do nothing: what this machine lacks is known when a program starts."""

    async def launch(self, program: Program, *, node: str = "") -> LocalProcess:
        """Start a program. Raises LaunchError if it cannot be run."""
        directory = program.directory
        if directory is None:
            await asyncio.to_thread(remove_left, program.role)
            owned = new_directory(program.role)  # in this thread: a cancelled wait would lose it
            self._directories.append(owned)
            directory = owned.path
        command, port = runnable(program.command, host=LOOPBACK)
        process = LocalProcess(command, environment={**os.environ, **program.variables}, directory=directory, port=port)
        self._started.append(process)
        return process

    async def close(self) -> None:
        """End every program, all at once, and remove the directories that were made for them. Safe to call twice."""
        await asyncio.gather(*(process.end() for process in self._started))
        for directory in self._directories:
            directory.remove()


def new_directory(role: str) -> OwnedDirectory:
    """Make a directory for a program. Raises LaunchError."""
    try:
        return OwnedDirectory(_prefix(role))
    except OSError as error:
        raise LaunchError(
            f"cannot make a directory for a program in {tempfile.gettempdir()}: {error.strerror}"
        ) from None


def remove_left(role: str) -> None:
    """Remove the directories that killed processes of this machine have left. Takes as long as the disk does."""
    sweep(_prefix(role))


def _prefix(role: str) -> str:
    return f"lzero-{role}-"


def runnable(command: Sequence[str], *, host: str) -> tuple[tuple[str, ...], int]:
    """Return a command of `Program` for this machine, whose address is `host`, with values for PYTHON, HOST and PORT; and the port, or 0.

    Another program may take the port before this one does, which then ends.
    """
    port = 0
    if PORT in command:
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
    values = {PORT: str(port), HOST: host}
    first = sys.executable if command[0] == PYTHON else command[0]
    return (first, *(values.get(word, word) for word in command[1:])), port
