"""The warm process that REPLs are forked from: everything imported, one thread, no secrets.

    python zygote.py CONTROL_FD LIMITS_JSON [DEFENCE_TO_LEAVE_OUT …]

Control messages are JSON, one a packet. The host sends `open` (with the REPL's end of a socket pair) and `signal`; the
zygote answers `hello`, `forked` twice (with the pids of init and session as credentials), `signalled` and `exited`. It ends when
the host's end is closed.
"""

import json
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

import heap
import isolate
from capture import Outputs
from frames import Channel
from kernel import Kernel
from shell import Shell

_MESSAGE_BYTES = 4096


class Zygote:
    def __init__(self, control: socket.socket, limits: isolate.Limits, without: Collection[str]) -> None:
        self._control = control
        self._limits = limits
        self._without = without
        self._pids: dict[int, int] = {}
        """REPL's number → pid of its session."""
        self._inits: dict[int, int] = {}
        """REPL's number → pid of its init."""
        self._numbers: dict[int, int] = {}
        """Pid, of a session or of an init → REPL's number."""
        self._statuses: dict[int, int] = {}
        """REPL's number → how its session ended, from then until its init has ended too."""
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._shell = Shell.instance(ipython_dir="/tmp/ipython")
        self._shell.warm_up(Outputs({}))
        _require_one_thread()

    def serve(self) -> None:
        wake_up, wake_up_write = socket.socketpair()
        wake_up_write.setblocking(False)
        signal.set_wakeup_fd(wake_up_write.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(wake_up, selectors.EVENT_READ)
        self._fillers = heap.settle()
        self._say({"type": "hello", "os": os.__file__, "prefix": sys.prefix, "pid": os.getpid()})
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._control:
                    if not self._obey():
                        return
                else:
                    wake_up.recv(4096)
                    self._reap()

    def _obey(self) -> bool:
        packet, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 1)
        if not packet:
            return False
        message = json.loads(packet)
        number = message["id"]
        if message["type"] == "open":
            self._open(number, descriptors[0])
        elif message["type"] == "signal":
            pids = self._inits if message["signal"] == signal.SIGKILL else self._pids  # with its init, all of it ends
            if number in pids:
                os.kill(pids[number], message["signal"])
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
            self._be_a_repl(descriptor)
        os.close(descriptor)
        self._inits[number], self._pids[number] = first, pid
        self._numbers[first] = self._numbers[pid] = number
        for part, each in (("init", first), ("session", pid)):
            # The kernel turns the pid into the host's; and it is a pid of ours: it checks that.
            credentials = struct.pack("iII", each, os.getuid(), os.getgid())
            self._say(
                {"type": "forked", "id": number, "part": part}, (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)
            )

    def _be_a_repl(self, descriptor: int) -> None:
        """In the child. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)  # the zygote's own would be one for all its children
            os.dup2(descriptor, 3)
            os.closerange(4, 1 << 20)
            connection = socket.socket(fileno=3)
            connection.set_inheritable(False)
            try:
                isolate.enter(self._limits, self._without)
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

    def _reap(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self._numbers.pop(pid, None)
            if number is not None:
                self._ended(number, pid, status)

    def _ended(self, number: int, pid: int, status: int) -> None:
        """Of a REPL's two processes, one; each takes the other along, and everything else in their namespace goes with the init.
        The host hears when both are gone."""
        if pid == self._pids.get(number):
            del self._pids[number]
            self._statuses[number] = status
            if number in self._inits:
                os.kill(self._inits[number], signal.SIGKILL)
        else:
            del self._inits[number]
        if number not in self._pids and number not in self._inits:
            self._say({"type": "exited", "id": number, "code": os.waitstatus_to_exitcode(self._statuses.pop(number))})

    def _say(self, message: dict[str, Any], *ancillary: tuple[int, int, bytes]) -> None:
        self._control.sendmsg([json.dumps(message).encode()], ancillary)


def _require_one_thread() -> None:
    """Raises RuntimeError where an import has started more."""
    names = [Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in os.listdir("/proc/self/task")]
    if len(names) > 1:
        raise RuntimeError(
            f"its packages start threads as they are imported ({', '.join(sorted(names))}), and what has threads cannot be "
            "forked safely: pyarrow, which pandas imports, is one of them"
        )


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    limits = isolate.Limits(**json.loads(sys.argv[2]))
    sys.path.remove(isolate.__file__.rsplit("/", 1)[0])
    Zygote(control, limits, sys.argv[3:]).serve()


if __name__ == "__main__":
    main()
