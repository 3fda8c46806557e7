"""The warm process that REPLs are forked from: everything imported, one thread, no secrets.

Control messages are JSON, one in each packet. The host sends `open` and `copy` (with the REPL's end of a socket pair) and `signal`. The
zygote answers `hello`, `forked` twice (with the pids of init and session as credentials), `uncopied`, `signalled` and `exited`. It ends
when the host's end is closed.
"""

import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import copying
import heap
import isolate
from capture import Outputs
from families import Families, Family
from frames import Channel
from kernel import Kernel
from proc import thread_names
from shell import Shell

_MESSAGE_BYTES = 4096
_PACKAGES = ("numpy", "pandas", *(("matplotlib.pyplot",) if find_spec("matplotlib") else ()))
"""matplotlib, where it is installed: its first import looks at every font of the machine, for a second."""


class Zygote:
    def __init__(
        self, control: socket.socket, limits: isolate.Limits, without: Collection[str], maker: copying.Maker
    ) -> None:
        self._control = control
        self._maker = maker
        self._limits = limits
        self._without = without
        self._families = Families(lambda number, code: self._say({"type": "exited", "id": number, "code": code}))
        self._copies: dict[int, _Copy] = {}
        """Copies in progress, by the descriptor over which the maker reports."""
        self._num_users = isolate.num_users()
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._shell = Shell.instance(ipython_dir="/tmp/ipython")
        _require_one_thread("Python starts")  # a package may run its own code at the start (a file *.pth)
        _import_packages(self._shell)
        self._shell.warm_up(Outputs({}))
        _require_one_thread("a first cell runs")

    def serve(self) -> None:
        wake_up, wake_up_write = socket.socketpair()
        wake_up_write.setblocking(False)
        signal.set_wakeup_fd(wake_up_write.fileno())
        signal.signal(signal.SIGCHLD, _ignore)  # the number on the wake-up socket is all
        self._selector = selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(wake_up, selectors.EVENT_READ)
        self._fillers = heap.settle()
        self._say({"type": "hello", "os": os.__file__})
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._control:
                    if not self._obey():
                        return
                elif key.fileobj is wake_up:
                    wake_up.recv(4096)
                    self._families.reap()
                else:
                    self._hear_of_copy(key.fd)

    def _obey(self) -> bool:
        packet, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 1)
        if not packet:
            return False
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # an init, another program, would keep the connection open
        message = json.loads(packet)
        number = message["id"]
        if message["type"] == "open":
            self._open(number, descriptors[0])
        elif message["type"] == "copy":
            self._copy(number, message["of"], descriptors[0])
        elif message["type"] == "signal":
            self._families.signal(number, message["signal"])
            self._say({"type": "signalled", "id": number})
        return True

    def _open(self, number: int, descriptor: int) -> None:
        assert len(os.listdir("/proc/self/task")) == 1, "forking with threads is unsafe"
        try:
            first, pid = isolate.fork(self._own_pid_namespace)
        except OSError as error:  # the machine is short of something: this REPL's misfortune, not that of the others
            with socket.socket(fileno=descriptor) as connection:
                Channel(connection).send({"type": "failed", "reason": f"fork: {error}"})
            self._say({"type": "exited", "id": number, "code": 1})
            return
        if pid == 0:
            self._be_a_repl(descriptor, 1 + number % self._num_users if self._num_users else 0)
        os.close(descriptor)
        self._born(number, first, pid)

    def _born(self, number: int, init: int, session: int, above: Family | None = None) -> None:
        """Report a new REPL to the host, and register it. `above`: the one whose pid namespace contains its own."""
        for part, each in (("init", init), ("session", session)):
            # The kernel translates the pid into the host's, and checks that it belongs to this process.
            credentials = struct.pack("iII", each, os.getuid(), os.getgid())
            with suppress(OSError):  # it has ended; `exited` will report that
                self._say(
                    {"type": "forked", "id": number, "part": part},
                    (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials),
                )
        self._families.add(number, init, session, above)

    def _copy(self, number: int, of: int, descriptor: int) -> None:
        """Request a copy from the maker, without waiting for it."""
        original = self._families.living(of)
        if original is None:
            os.close(descriptor)
            self._say({"type": "uncopied", "id": number, "reason": "it has ended"})
            return
        try:
            hear = self._maker.ask(original.init, original.session, descriptor)
        except OSError as error:  # this copy's misfortune, not that of all REPLs here
            self._say({"type": "uncopied", "id": number, "reason": f"the maker of copies cannot be asked: {error}"})
            return
        finally:
            os.close(descriptor)
        self._copies[hear] = _Copy(number, original)
        self._families.expect(1)
        self._selector.register(hear, selectors.EVENT_READ)

    def _hear_of_copy(self, hear: int) -> None:
        copy = self._copies[hear]
        word = os.read(hear, _MESSAGE_BYTES)
        copy.said += word
        told: dict[str, Any] = {}
        for line in copy.said.splitlines():
            told |= json.loads(line)
        if word and not told.keys() & {"session", "refused"}:
            return
        self._selector.unregister(hear)
        os.close(hear)
        del self._copies[hear]
        if "session" in told:
            self._born(copy.number, told["init"], told["session"], copy.of)
        else:
            self._families.discard(told.get("init", 0))
            reason = told.get("refused", "it broke off in the middle of it, or the machine has no room for it")
            self._say({"type": "uncopied", "id": copy.number, "reason": reason})
        self._families.expect(-1)

    def _be_a_repl(self, descriptor: int, user: int) -> None:
        """Run as a REPL, in the child. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)  # all children would share the zygote's own
            os.dup2(descriptor, 3)
            os.closerange(4, 1 << 20)
            connection = socket.socket(fileno=3)
            connection.set_inheritable(False)
            try:
                isolate.enter(self._limits, user, self._without)
                kernel = Kernel(self._shell, connection)
                if "seccomp" not in self._without:
                    isolate.shut()
            except Exception as error:  # fail closed: nothing runs in a jail that is not shut
                Channel(connection).send({"type": "failed", "reason": f"{type(error).__name__}: {error}"})
            else:
                kernel.serve()
                code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)

    def _say(self, message: dict[str, Any], *ancillary: tuple[int, int, bytes]) -> None:
        self._control.sendmsg([json.dumps(message).encode()], ancillary)


def _ignore(*_: object) -> None:
    pass


@dataclass
class _Copy:
    """A copy that is being made."""

    number: int
    of: Family
    said: bytes = b""


def serve(control: socket.socket, limits: isolate.Limits, without: Collection[str], maker: copying.Maker) -> None:
    """Serve the host until its end is closed."""
    _hide_own_modules()
    Zygote(control, limits, without, maker).serve()


def _hide_own_modules() -> None:
    """Rename lzero's modules with a prefix, so that cells can import modules of the workspace with the same names."""
    own = isolate.__file__.rpartition("/")[0]
    sys.path.remove(own)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(f"{own}/") and name != "__main__":
            sys.modules[f"_inside_{name}"] = sys.modules.pop(name)


def _import_packages(shell: Any) -> None:
    """Import the packages, once for all sessions. Raises what an import raises, and RuntimeError if it starts a thread."""
    shell.kernel = None  # pandas looks for it on import, and then does not fit the columns that it prints to a terminal
    for package in _PACKAGES:
        before = _installed()
        with shell.builtin_trap:  # `get_ipython` is there, as in a cell
            importlib.import_module(package)
        others = sorted(_installed() - before - {package.partition(".")[0]})
        _require_one_thread(f"{package} is imported" + (f", which imports {', '.join(others)}" if others else ""))
    del shell.kernel


def _require_one_thread(when: str) -> None:
    """Raise RuntimeError if this process has more threads: a fork copies one only, and locks that the others hold stay locked."""
    names = thread_names()
    if len(names) > 1:
        raise RuntimeError(
            f"threads start as {when} ({', '.join(names)}), and what has threads cannot be forked safely"
        )


def _installed() -> set[str]:
    """Return the top-level names of the installed packages that are imported."""
    files = {
        name.partition(".")[0]: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())
    }
    return {name for name, file in files.items() if "-packages/" in file}
