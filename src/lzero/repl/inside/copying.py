"""Copy a live REPL from outside of it, while none of its own instructions run.

Only a process itself can fork its heap, but an isolated one may not make namespaces. So a helper of the zygote makes the copy. It has all
rights over a REPL, and no REPL can reach it. It stops the session while that waits for the host, makes a world next to the session's
(`second_world`), makes the session fork (`tracer`), and moves the fork into that world. A process of a user namespace has all rights over
the namespaces below its own, and the copy's is below the original's. So the original steps down into another one. Before either continues,
the helper checks both in /proc. A failure ends the copy; the original continues, or ends too if it had already begun to move.

setns(2).
"""

import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import NoReturn

import isolate
from proc import pids_of, read, status_of
from second_world import NO_DEEPER, OWN_PLACES, PATIENCE_S, CopyRefused, SecondWorld
from tracer import Broken, Tracee

_DEEPEST = 28
"""The deepest nesting of pid namespaces for a copy; the kernel ends at 32."""
_STATELESS = frozenset(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))
_OUTPUTS = {"/memfd:stdout (deleted)": "stdout", "/memfd:stderr (deleted)": "stderr"}
_CONNECTION = 3
_CLONE_PARENT, _CLONE_VM = 0x8000, 0x100
_WAIT_S = 5.0
_REASON_CHARS = 300
"""The most characters of a refusal. Each takes up to 12 bytes of a control message, which holds 4,096."""
_MEETING_PLACE = ".lzero"
# System calls of x86-64.
_RECVFROM, _RECVMSG, _SOCKET, _CONNECT, _SETSID, _CHDIR, _CAPSET, _PRCTL = 45, 47, 41, 42, 112, 80, 126, 157
_DUP3, _CLOSE, _SETNS, _PIDFD_OPEN = 292, 3, 308, 434
_SECUREBITS = 0xEF
"""Programs that it starts gain nothing from being root, and these bits are locked."""


class Maker:
    """The zygote's handle of the process that makes copies. That process has a small heap, and forks itself for each copy."""

    def __init__(self, limits: isolate.Limits, control: socket.socket) -> None:
        """Start it as a child of this process, before this one has grown. It closes `control`, which it does not need."""
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._end.close()
            control.close()
            _make_copies(theirs, limits)
        theirs.close()

    def ask(self, init: int, session: int, connection: int) -> int:
        """Request a copy that answers at `connection`. Return a descriptor of its progress.

        The progress is lines of JSON: `{"init": pid}`, `{"session": pid}`, `{"refused": reason}`.
        """
        hear, tell = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._end, [json.dumps((init, session)).encode()], (connection, tell))
        finally:
            os.close(tell)
        return hear


def _make_copies(requests: socket.socket, limits: isolate.Limits) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            packet, descriptors, _, _ = socket.recv_fds(requests, 4096, 2)
            if not packet:
                break
            connection, tell = descriptors
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            try:
                child = isolate.clone_beside()
            except OSError:  # no room for it now; closing `tell` reports that
                child = -1
            if child == 0:
                requests.close()
                init, session = json.loads(packet)
                _make_copy(init, session, connection, tell, limits)
            os.close(connection)
            os.close(tell)
    finally:
        os._exit(0)


def _make_copy(init: int, session: int, connection: int, tell: int, limits: isolate.Limits) -> NoReturn:
    def say(**message: object) -> None:
        os.write(tell, json.dumps(message).encode() + b"\n")

    try:
        signal.alarm(PATIENCE_S)
        say(session=copy(session, init, connection, limits, lambda pid: say(init=pid)))
    except BaseException as error:
        kind = "" if isinstance(error, CopyRefused) else f"{type(error).__name__}: "
        say(refused=_printable(f"{kind}{error}"))
    finally:
        os._exit(0)


def _printable(reason: str) -> str:
    """Replace unprintable characters and limit the length. A session chooses the names in the reason, and any bytes in them."""
    return "".join(letter if letter.isprintable() else "?" for letter in reason[:_REASON_CHARS])


def copy(session: int, init: int, connection: int, limits: isolate.Limits, born: Callable[[int], None]) -> int:
    """Make a copy, and return its pid. Its parent, and that of its init, is the zygote. Calls `born` with the pid of the copy's init.

    Runs in a separate process in the zygote's namespaces. Raises CopyRefused, OSError or Broken if no copy was made.
    """
    if os.uname().machine != "x86_64":
        raise CopyRefused(f"there is no way to do it on {os.uname().machine} yet")
    _await_host(session)
    original = Tracee.stop(session)
    moved = False
    try:
        _require_alone(original, init)
        filtered = status_of(session)["Seccomp"]
        with SecondWorld(session, limits, born) as world:
            outputs = _outputs_of(session)
            new_init = world.init()
            twin = _fork_into(original, new_init)
            try:
                twin.call(_SETSID)
                _give_up_rights(twin)
                holder = world.finished()
                twin.call(_CHDIR, os.readlink(os.fsencode(f"/proc/{session}/cwd")) + b"\0")
                _reconnect(twin, new_init, connection, outputs)
                moved = True
                _enter(original, holder, isolate.NEWUSER)
                _give_up_rights(original)
                _verify(original.pid, twin.pid, holder, new_init, filtered)
                original.let_go()
                twin.let_go()
            except BaseException:
                twin.end()
                raise
        return twin.pid
    except BaseException:
        if moved:
            original.end()
        else:
            original.let_go()
        raise


def _await_host(pid: int) -> None:
    """Wait until the session waits for its next message from the host, or `_WAIT_S` has passed."""
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until and not read(f"/proc/{pid}/syscall").startswith(f"{_RECVFROM} {_CONNECTION:#x} "):
        time.sleep(0.0005)


def _require_alone(original: Tracee, init: int) -> None:
    """Raise CopyRefused unless the session is one thread that waits for the host, without children that could see or answer its calls."""
    pid = original.pid
    if original.waits_in != (_RECVFROM, _CONNECTION):
        raise CopyRefused("it does not wait for its next cell")
    if _num_filters(pid) > _num_filters(os.getpid()) + 1:
        raise CopyRefused("it filters system calls itself, and could answer in place of the kernel")
    children = sum(len(read(f"/proc/{each}/task/{each}/children").split()) for each in (pid, init))
    if children:
        raise CopyRefused(f"it has processes of its own ({children}; one that has ended counts until it is waited for)")
    if (threads := len(os.listdir(f"/proc/{pid}/task"))) > 1:
        raise CopyRefused(f"it has {threads} threads, and a copy would have one")
    if len(pids_of(pid)) >= _DEEPEST:
        raise CopyRefused(NO_DEEPER)


def _outputs_of(pid: int) -> dict[int, tuple[str, int]]:
    """Return the descriptors of captured output: number → name, flags. Raises CopyRefused if the session holds anything that a copy would
    share."""
    if not os.readlink(f"/proc/{pid}/cwd").startswith("/") or os.readlink(f"/proc/{pid}/cwd").endswith(" (deleted)"):
        raise CopyRefused("its working directory is gone")
    for line in read(f"/proc/{pid}/maps").splitlines():
        fields = line.split(maxsplit=5)
        name = fields[5] if len(fields) > 5 else "memory without a name"
        written = fields[1][1] == "w" or (fields[1].endswith("s") and name.endswith(" (deleted)"))
        if (fields[1].endswith("s") and written) or name.startswith((*OWN_PLACES, "/memfd:")):
            raise CopyRefused(f"it maps {name} into memory, which the copy would share")
    outputs = {}
    targets = {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in map(int, os.listdir(f"/proc/{pid}/fd"))}
    if "anon_inode:[eventpoll]" in targets.values():
        raise CopyRefused(
            "a task waits in its event loop (or it holds an epoll object open); await or cancel the task first"
        )
    for number, target in targets.items():
        if number == _CONNECTION or target in _STATELESS:
            continue
        if target not in _OUTPUTS:
            kind = "a socket" if target.startswith("socket:") else target
            raise CopyRefused(f"it holds {kind} open (descriptor {number}), which the copy would share; close it first")
        flags = next(
            line.split()[1] for line in read(f"/proc/{pid}/fdinfo/{number}").splitlines() if line[:6] == "flags:"
        )
        outputs[number] = _OUTPUTS[target], int(flags, 8)
    return outputs


def _fork_into(original: Tracee, init: int) -> Tracee:
    # This clone shares the original's memory: only the second one needs its own.
    between = original.clone(_CLONE_PARENT | _CLONE_VM | signal.SIGCHLD, isolate.key())
    try:
        _enter(between, init, isolate.NEWUSER | isolate.WORLD)
        return between.clone(_CLONE_PARENT | signal.SIGCHLD, isolate.key())
    finally:
        between.end()


def _enter(tracee: Tracee, target: int, kinds: int) -> None:
    """Make the tracee enter namespaces of a process that it can see, all at once."""
    level = len(pids_of(tracee.pid)) - 1
    descriptor = tracee.call(_PIDFD_OPEN, pids_of(target)[level], 0)
    tracee.call(_SETNS, descriptor, kinds, 0, 0, 0, isolate.key())
    tracee.call(_CLOSE, descriptor)


def _give_up_rights(tracee: Tracee) -> None:
    """Drop all capabilities that the tracee got when it entered a user namespace."""
    tracee.call(_PRCTL, 28, _SECUREBITS)
    tracee.call(_CAPSET, struct.pack("Ii", 0x20080522, 0), bytes(24))
    tracee.call(_PRCTL, 4, 1)  # dumpable
    tracee.call(_PRCTL, 1, signal.SIGKILL)  # when its parent dies


def _reconnect(twin: Tracee, init: int, connection: int, outputs: dict[int, tuple[str, int]]) -> None:
    """Replace the original's connection and captured output in the copy with its own."""
    files = {name: os.memfd_create(name) for name in dict.fromkeys(name for name, _ in outputs.values())}
    wanted = [(_CONNECTION, connection, os.O_CLOEXEC)]
    for number, (name, flags) in outputs.items():
        opened = os.open(f"/proc/self/fd/{files[name]}", flags & (os.O_ACCMODE | os.O_APPEND))
        wanted.append((number, opened, flags & os.O_CLOEXEC))
    place = f"/proc/{init}/root/tmp"
    with socket.socket(socket.AF_UNIX) as listener:
        with isolate.owning(os.stat(place).st_uid):  # the place takes files of this user only
            listener.bind(f"{place}/{_MEETING_PLACE}")
        listener.listen(1)
        end = twin.call(_SOCKET, socket.AF_UNIX, socket.SOCK_STREAM, 0)
        address = struct.pack("H", socket.AF_UNIX) + f"/tmp/{_MEETING_PLACE}".encode() + b"\0"
        twin.call(_CONNECT, end, address, len(address))
        os.unlink(f"{place}/{_MEETING_PLACE}")
        accepted, _ = listener.accept()
    with accepted:
        socket.send_fds(accepted, [b"."], [descriptor for _, descriptor, _ in wanted])
    for (number, _, flags), received in zip(wanted, _receive(twin, end, len(wanted)), strict=True):
        twin.call(_DUP3, received, number, flags)
        twin.call(_CLOSE, received)
    twin.call(_CLOSE, end)
    for number, held, _ in wanted:
        if not os.path.samestat(os.stat(f"/proc/{twin.pid}/fd/{number}"), os.fstat(held)):
            raise Broken(f"the copy did not take its own descriptor {number}")


def _receive(tracee: Tracee, end: int, count: int) -> list[int]:
    """Make the tracee receive `count` descriptors, and return their numbers."""
    size = socket.CMSG_LEN(4 * count)
    at = tracee.scratch
    vector, control = at + 64, at + 128
    tracee.write(at, struct.pack("QQQQQQQ", 0, 0, vector, 1, control, size, 0))
    tracee.write(vector, struct.pack("QQ", at + 96, 1))
    tracee.call(_RECVMSG, end, at, 0)
    found = tracee.read(control, size)
    return list(struct.unpack(f"{count}i", found[-4 * count :]))


def _verify(original: int, twin: int, holder: int, init: int, filtered: str) -> None:
    """Raise Broken unless original and copy are isolated like every session, and from each other.

    `filtered`: the original's filter in /proc, before the copy.
    """
    for pid in (original, twin):
        status = status_of(pid)
        rights = [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]
        if any(rights) or status["NoNewPrivs"] != "1" or status["Threads"] != "1" or status["Seccomp"] != filtered:
            raise Broken(f"it came out with rights that it must not have: {rights}")
    if os.stat(f"/proc/{original}/ns/user").st_ino != os.stat(f"/proc/{holder}/ns/user").st_ino:
        raise Broken("the original did not step down, and had rights over the copy")
    if os.getsid(twin) != twin:
        raise Broken("the copy is in the original's session, and signals to groups would reach both")
    for kind in ("user", "mnt", "pid", "ipc", "uts", "net"):
        ours, theirs = (os.stat(f"/proc/{pid}/ns/{kind}").st_ino for pid in (original, twin))
        if ours == theirs or theirs != os.stat(f"/proc/{init}/ns/{kind}").st_ino:
            raise Broken(f"the copy is in a {kind} namespace that is not its own")


def _num_filters(pid: int) -> int:
    """Return the number of system call filters; 0 if the kernel does not report it (before 5.9)."""
    return int(status_of(pid).get("Seccomp_filters", 0))
