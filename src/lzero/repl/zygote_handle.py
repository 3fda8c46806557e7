"""Control a zygote from the host: start it, let it fork REPLs, signal them, and learn how they ended."""

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import IO, Any

from lzero.closing import closed_on_error
from lzero.errors import ForkRefused, ProtocolError, ReplDied, ReplError, SandboxError
from lzero.repl import jail, users, wire
from lzero.repl.connection import watchable
from lzero.repl.environment import Environment
from lzero.repl.jail import Limits

_START_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_LOOK_S = 0.005
"""Seconds between two checks whether a process has ended."""
_PACKET_BYTES = 4096
_CREDENTIALS = struct.Struct("iII")
"""pid, user, group: `struct ucred` of unix(7)."""


class Child:
    """A forked REPL as the host knows it from its zygote."""

    def __init__(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.init = 0
        """The pid of its init, outside the jail; 0 while it is unknown."""
        self.forked: asyncio.Future[int] = loop.create_future()
        """The pid of its session, outside the jail; 0 if the session ended before the zygote reported it."""
        self.refused: asyncio.Future[str] = loop.create_future()
        """The reason why this copy was not made."""
        self.signalled = asyncio.Event()
        """Whether the last signal is on its way."""
        self.ended: asyncio.Future[int | None] = loop.create_future()
        """Its exit code, a negative signal, or None if the zygote died and took it along."""

    def end(self, code: int | None) -> None:
        """Note that it has ended with this code."""
        _settle(self.forked, 0)
        _settle(self.ended, code)
        self.signalled.set()


class ZygoteHandle:
    """The host's handle of a zygote in a jail of its own. The zygote dies with the thread that started it, and takes every REPL with it."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, errors: IO[bytes]) -> None:
        self._process = process
        self._control = control
        self._errors = errors
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[wire.Hello | None] = self._loop.create_future()
        self._children: dict[int, Child] = {}
        self.num_forks = 0
        self._sending = asyncio.Lock()
        self._writable: asyncio.Future[None] = self._loop.create_future()
        self.alive = True
        control.setblocking(False)
        control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    @classmethod
    async def start(cls, environment: Environment, limits: Limits, without: Collection[str] = ()) -> "ZygoteHandle":
        """Start a zygote. Raises SandboxError if the machine or the environment does not allow it."""
        with ExitStack() as closed, ExitStack() as closed_on_failure:
            try:
                errors = closed_on_failure.enter_context(tempfile.TemporaryFile())
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                closed_on_failure.enter_context(ours)
                closed.enter_context(theirs)
                namespace = await users.namespace() if users.available() else None
            except OSError as error:
                raise SandboxError(
                    f"cannot start the sandbox{jail.explain(str(error), environment.directory)}"
                ) from None
            if namespace is not None:
                closed.callback(os.close, namespace)
            process = jail.start(environment, theirs, limits, errors, namespace=namespace, without=without)
            theirs.close()
            closed_on_failure.pop_all()
            zygote = cls(process, ours, errors)
            async with closed_on_error(zygote.stop):
                await zygote._greet(environment)
        return zygote

    @property
    def num_repls(self) -> int:
        """Number of living REPLs."""
        return len(self._children)

    async def fork(self, connection: socket.socket) -> Child:
        """Return a new REPL at the other end of `connection`.

        Raises ReplDied if the zygote died, or another ReplError if the kernel refuses the descriptor; the zygote then continues.
        """
        child = self._new_child()
        try:
            await self._send({"type": "open", "id": child.number}, connection.fileno())
        except BaseException:
            self._children.pop(child.number, None)
            raise
        return child

    async def copy(self, original: Child, connection: socket.socket) -> Child:
        """Return a copy of a live REPL at the other end of `connection`. It stays silent until the host sends it a message.

        Raises ForkRefused, and what `fork` raises.
        """
        child = self._new_child()
        try:
            await self._send({"type": "copy", "id": child.number, "of": original.number}, connection.fileno())
            async with self._answer_due():
                await asyncio.wait((child.refused, child.forked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not child.forked.done():
                self._children.pop(child.number, None)
        if child.refused.done():
            raise ForkRefused(child.refused.result())
        return child

    def _new_child(self) -> Child:
        self.num_forks += 1
        child = self._children[self.num_forks] = Child(self.num_forks)
        return child

    async def signal(self, child: Child, number: int) -> None:
        """Send a signal. Return when it is on its way, or the child has ended. Ends a zygote that does not answer, and raises ReplDied."""
        if child.ended.done():
            return
        child.signalled.clear()
        await self._send({"type": "signal", "id": child.number, "signal": number})
        async with self._answer_due():
            await child.signalled.wait()

    async def stop(self) -> None:
        """End the zygote and everything in it, and return when all is gone. Safe to call twice."""
        self._lost()
        if self._process.returncode is not None:
            return
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await _end_of(self._process.pid)  # the zygote is pid 1: all end with it
        except TimeoutError:
            self._process.kill()
            if self._process.returncode is None:  # else it had just ended, and `kill` has reaped it
                await _end_of(self._process.pid)
        # If bubblewrap was killed while it started, its second process may still wait for its first one.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()

    async def _greet(self, environment: Environment) -> None:
        with watchable(SandboxError):
            self._loop.add_reader(self._control.fileno(), self._on_packets)
        ended = asyncio.create_task(_end_of(self._process.pid))
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await asyncio.wait((self._hello, ended), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise SandboxError(
                f"the sandbox did not start within {_START_TIMEOUT_S:.0f} s{self._complaint(environment)}"
            ) from None
        finally:
            ended.cancel()
        hello = self._hello.result() if self._hello.done() else None
        if hello is None:
            raise SandboxError(f"the sandbox did not start{self._complaint(environment)}")
        if hello.os != environment.os_file:
            raise SandboxError(
                f"inside the sandbox Python's library is {hello.os}, outside {environment.os_file}: "
                f"the kernel environment {environment.directory} cannot be read in full by an ordinary user"
            )

    def _complaint(self, environment: Environment) -> str:
        size = os.fstat(self._errors.fileno()).st_size
        text = os.pread(self._errors.fileno(), 4000, max(0, size - 4000)).decode("utf-8", "replace").strip()
        return jail.explain(text, environment.directory)

    async def _send(self, message: dict[str, object], *descriptors: int) -> None:
        packet = json.dumps(message).encode()
        async with self._answer_due(), self._sending:
            while self.alive:
                try:
                    socket.send_fds(self._control, [packet], descriptors)
                    return
                except BlockingIOError:
                    await self._await_writable()
                except OSError as error:
                    if descriptors and not isinstance(error, ConnectionError):
                        raise ReplError(
                            f"cannot send the sandbox's zygote a descriptor: {error}; raise the limit on open files (ulimit -n), "
                            "which also bounds the descriptors in flight of one user"
                        ) from None
                    self._lost()
        raise ReplDied("the sandbox's zygote died")

    async def _await_writable(self) -> None:
        self._writable = writable = self._loop.create_future()
        try:
            with watchable():
                self._loop.add_writer(self._control.fileno(), _settle, writable)
            await writable
        finally:
            if self.alive:
                self._loop.remove_writer(self._control.fileno())

    @asynccontextmanager
    async def _answer_due(self) -> AsyncIterator[None]:
        """Run the block within a deadline. If the zygote does not answer by then, end it with all its REPLs, and raise ReplDied."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                yield
        except TimeoutError:
            await self.stop()
            raise ReplDied(
                f"the sandbox's zygote did not answer within {_ANSWER_TIMEOUT_S:.0f} s and was ended"
            ) from None

    def _on_packets(self) -> None:
        try:
            while True:
                packet, ancillary, _, _ = self._control.recvmsg(_PACKET_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
                if not packet:
                    break
                self._on_message(wire.decode_zygote(packet), _sender(ancillary))
                if not self.alive:
                    return
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            pass
        self._lost()

    def _on_message(self, message: wire.FromZygote, pid: int) -> None:
        """Handle a message. `pid`: the sender's, from the message's credentials."""
        if isinstance(message, wire.Hello):
            _settle(self._hello, message)
        elif child := self._children.get(message.id):
            match message:
                case wire.Forked(part="init"):
                    child.init = pid
                case wire.Forked():
                    _settle(child.forked, pid)
                case wire.Uncopied():
                    _settle(child.refused, message.reason)
                case wire.Signalled():
                    child.signalled.set()
                case wire.Exited():
                    del self._children[message.id]
                    child.end(message.code)

    def _lost(self) -> None:
        """Close the host's end, and mark every REPL as ended. The zygote is gone, or ends when it sees that."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._control.fileno())
        self._loop.remove_writer(self._control.fileno())
        self._control.close()
        _settle(self._hello, None)
        _settle(self._writable)
        for child in self._children.values():
            child.end(None)
        self._children.clear()


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Return the pid in a message's credentials; 0 if it has none."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) == _CREDENTIALS.size:
            pid: int = _CREDENTIALS.unpack(data)[0]
            return pid
    return 0


def _settle(future: "asyncio.Future[Any]", value: object = None) -> None:
    if not future.done():
        future.set_result(value)


async def _end_of(pid: int) -> None:
    """Wait until a child process of the host has ended, without reaping it. Polls, because the host may have no descriptor left."""
    with suppress(ChildProcessError):  # another waiter has reaped it
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            await asyncio.sleep(_LOOK_S)
