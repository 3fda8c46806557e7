"""Start a plain Jupyter kernel, exchange messages with it, and end it without a trace.

One private directory holds all that belongs to the kernel: its connection file, its sockets (transport "ipc", so that no port is open) and
its working directory.
"""

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from lzero.closing import closed_on_error
from lzero.errors import ProtocolError, ReplDied, SandboxError
from lzero.repl import programs
from lzero.repl.cells import how_ended
from lzero.repl.connection import watchable
from lzero.repl.jupyter import wire as jupyter_wire
from lzero.repl.jupyter.wire import Message

_PREFIX = "lzero-jupyter-"
_START_TIMEOUT_S = 60.0
_ASK_AGAIN_S = 0.1
_LISTEN_TIMEOUT_S = 10.0
_KILL_TIMEOUT_S = 10.0
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ")
"""Environment variables of the host that a kernel gets. No secret key is among them; a kernelspec names what else it needs."""


def new_context() -> zmq.asyncio.Context:
    """Return a context for sockets that hold a bounded amount of a kernel's messages."""
    context = zmq.asyncio.Context()
    for option, value in (
        (zmq.MAXMSGSIZE, jupyter_wire.MAX_PART),
        (zmq.RCVHWM, jupyter_wire.WAITING),
        (zmq.SNDTIMEO, 10_000),
        (zmq.LINGER, 0),
    ):
        context.setsockopt(option, value)
    return context


async def sweep() -> None:
    """Remove the directories of hosts that were killed. Their kernels died with them."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = directory.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(FileNotFoundError):  # another process was quicker
            own = directory.lstat().st_uid == os.geteuid()
            if own and pid.isdecimal() and not psutil.pid_exists(int(pid)):
                await _remove(directory)


class _Manager(AsyncKernelManager):
    """A manager of a kernel that dies with the host."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        return [programs.find("setpriv"), "--pdeathsig", "KILL", "--", *super().format_kernel_cmd(extra_arguments)]


class Kernel:
    """A running Jupyter kernel. `start` makes it, `end` ends it."""

    def __init__(self, directory: Path, manager: AsyncKernelManager, client: AsyncKernelClient, process: int) -> None:
        """`process`: a descriptor that becomes readable when the process ends."""
        self._directory = directory
        self._manager = manager
        self._client = client
        self._process = process
        self._channels = {
            "shell": client.shell_channel.socket,
            "iopub": client.iopub_channel.socket,
            "stdin": client.stdin_channel.socket,
        }
        self._poller = zmq.asyncio.Poller()
        for source in (*self._channels.values(), process):
            self._poller.register(source, zmq.POLLIN)
        self._waiting: list[tuple[str, Message]] = []
        self._polling = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, name: str, context: zmq.asyncio.Context) -> "Kernel":
        """Start the kernel of the installed kernelspec `name`.

        Raises SandboxError if it cannot be started, ReplDied if it does not answer, and ReplError if the event loop cannot wait for it.
        """
        async with AsyncExitStack() as undo:
            try:
                directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
                undo.push_async_callback(_remove, directory)
                manager = await _started(name, context, directory)
                undo.push_async_callback(_reap, manager)
                client = manager.client(context=context)
                undo.callback(client.stop_channels)
                process = os.pidfd_open(_pid_of(manager))
                undo.callback(os.close, process)
                client.start_channels(hb=False, control=False)
                kernel = cls(directory, manager, client, process)
            except (OSError, zmq.ZMQError) as error:
                raise SandboxError(f"the Jupyter kernel {name!r} cannot be started: {error}") from None
            undo.pop_all()
        async with closed_on_error(kernel.end):
            await kernel._answer()
        return kernel

    @property
    def pid(self) -> int:
        return 0 if self._ending is not None else _pid_of(self._manager)

    @property
    def directory(self) -> Path:
        """The working directory of its cells."""
        return self._directory / "work"

    def ask(self, kind: str, content: Mapping[str, Any]) -> str:
        """Send a request, and return its id. Raises ConnectionError if the kernel has been ended."""
        message = self._client.session.msg(kind, dict(content))
        self._send("shell", message)
        return str(message["header"]["msg_id"])

    def reply(self, value: str) -> None:
        """Answer an `input_request`. Raises ConnectionError if the kernel has been ended."""
        self._send("stdin", self._client.session.msg("input_reply", {"value": value}))

    async def interrupt(self) -> None:
        if self._ending is None:
            await self._manager.interrupt_kernel()

    async def receive(self, *, until: float) -> tuple[str, Message]:
        """Return a message and its channel. If several wait, "iopub" comes before "stdin" before "shell".

        Raises TimeoutError at the time `until` of the loop's clock, ConnectionError when the kernel ends, ProtocolError for an invalid
        message, and ReplError if the event loop cannot wait for the kernel.
        """
        while not self._waiting:
            await asyncio.sleep(0)  # a flood leaves the other sessions their turn
            async with self._polling:
                self._check_open()
                left = 1000 * max(0.0, until - self._loop.time())
                with watchable():
                    events = dict(await self._poller.poll(left))
            self._check_open()
            for channel in ("shell", "stdin", "iopub"):  # a stack: the channel read last is returned first
                if self._channels[channel] in events:
                    await self._take(channel)
            if not self._waiting and self._process in events:
                raise ConnectionResetError("ended")
            if not events:
                raise TimeoutError
        return self._waiting.pop()

    async def _take(self, channel: str) -> None:
        try:
            parts = await self._channels[channel].recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        self._waiting.append((channel, jupyter_wire.parse(parts, self._client.session.sign)))

    def _send(self, channel: str, message: dict[str, Any]) -> None:
        self._check_open()
        try:
            self._client.session.send(self._channels[channel], message)
        except zmq.ZMQError as error:
            raise ConnectionResetError(f"takes no messages: {error}") from None

    def _check_open(self) -> None:
        if self._ending is not None:
            raise ConnectionAbortedError("was closed")

    async def listen_again(self) -> None:
        """Connect to the kernel's publications again, after a message that was too large has cut them off. Raises ConnectionError."""
        async with self._polling:
            self._check_open()
            self._poller.unregister(self._channels["iopub"])
            self._channels["iopub"].close()
            self._channels["iopub"] = self._client.connect_iopub()
            self._poller.register(self._channels["iopub"], zmq.POLLIN)
        try:
            await self._hear(until=self._loop.time() + _LISTEN_TIMEOUT_S)
        except TimeoutError:
            raise ConnectionResetError("publishes nothing any more") from None

    async def _answer(self) -> None:
        """Wait until the kernel answers. Raises ReplDied."""
        try:
            await self._hear(until=self._loop.time() + _START_TIMEOUT_S)
        except TimeoutError:
            raise ReplDied(f"a Jupyter kernel did not answer within {_START_TIMEOUT_S:.0f} s") from None
        except (ConnectionError, ProtocolError) as error:
            raise ReplDied(f"a Jupyter kernel did not start: it {await self.why_gone() or error}") from None

    async def _hear(self, *, until: float) -> None:
        """Ask the kernel repeatedly, until its publications arrive. A subscription takes some time, and nothing reports when it works."""
        asked: set[str] = set()
        while self._loop.time() < until:
            asked.add(self.ask("kernel_info_request", {}))
            again = self._loop.time() + _ASK_AGAIN_S
            try:
                while True:
                    channel, message = await self.receive(until=again)
                    if channel == "iopub" and message.parent in asked and jupyter_wire.is_idle(message):
                        return
            except TimeoutError:
                continue
        raise TimeoutError

    async def why_gone(self) -> str:
        """Return how the process ended, in words; "" while it runs."""
        code = None if self._manager.provisioner is None else await self._manager.provisioner.poll()
        if code is None:
            return "" if self._ending is None else "was ended"
        return how_ended(code)

    async def end(self) -> None:
        """Kill the kernel, its process group and its descendants. Return when it is reaped and its directory is removed."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        await _reap(self._manager)
        async with self._polling:  # a waiting `receive` has noticed the end by now
            for channel in self._channels.values():
                channel.close()
            self._client.stop_channels()
        os.close(self._process)
        await self._manager.cleanup_resources()
        await _remove(self._directory)


async def _started(name: str, context: zmq.asyncio.Context, directory: Path) -> AsyncKernelManager:
    """Start a kernel's process, with all its files in `directory`. Raises OSError."""
    for part in ("work", "tmp", "ipython"):
        (directory / part).mkdir()
    manager = _Manager(
        kernel_name=name,
        context=context,
        transport="ipc",
        ip=str(directory / "at"),
        connection_file=str(directory / "kernel.json"),
    )
    await manager.start_kernel(
        cwd=str(directory / "work"),
        env=_variables(directory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return manager


def _pid_of(manager: AsyncKernelManager) -> int:
    """Return the pid of the kernel's process; 0 if there is none."""
    return int(getattr(manager.provisioner, "pid", None) or 0)


async def _reap(manager: AsyncKernelManager) -> None:
    """Kill a kernel's processes, and wait for the first of them."""
    provisioner = manager.provisioner
    if provisioner is not None and provisioner.has_process and (pid := _pid_of(manager)):
        _kill_tree(pid)
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_TIMEOUT_S):
                await provisioner.wait()


def _kill_tree(pid: int) -> None:
    """Kill the process, its group, and descendants that have left the group."""
    with suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(pid).children(recursive=True)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                process.kill()


async def _remove(directory: Path) -> None:
    """Remove a directory with rm. shutil.rmtree would fail on a tree deeper than Python's stack."""
    await asyncio.to_thread(
        subprocess.run, ["rm", "-rf", "--", str(directory)], stderr=subprocess.DEVNULL, check=False, timeout=60
    )


def _variables(directory: Path) -> dict[str, str]:
    own = {
        "TMPDIR": str(directory / "tmp"),
        "IPYTHONDIR": str(directory / "ipython"),
        "PYTHONHASHSEED": "0",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | own
