"""The namespaces of a copy, made beside those of its original while that one is stopped.

They are owned by a user namespace within the original's, since nobody else could let the original's fork step into them. A process
of a user namespace has all rights over those within it; so there is a further one, for the original to step down into. See
user_namespaces(7), pid_namespaces(7).
"""

import errno
import os
import shutil
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import NoReturn, Self

import isolate

OWN_PLACES = ("/workspace", "/tmp", "/dev/shm")
NO_DEEPER = (
    "copies end here: each puts itself and its original one level deeper, and the kernel nests namespaces no deeper"
)
PATIENCE_S = 20
"""What the making of a copy may take; then it is ended, and the original with it."""
_MANY = 1 << 30
_CREDENTIALS = struct.Struct("iII")


class Refused(Exception):
    """It cannot be copied; the message says why."""


class SecondWorld:
    """While it is held, the kernel would let the original's user namespace have further ones within it. It is left so where the
    copy came to be, since both are then within and nobody else is there; otherwise the door is closed again. (The session is
    stopped meanwhile, and its filter would refuse it anyway.)"""

    def __init__(self, original: int, limits: isolate.Limits, born: Callable[[int], None]) -> None:
        """Begins to make it, and returns meanwhile. `born` is told the pid of its init as soon as there is one."""
        self._born = born
        self._said: dict[bytes, int] = {}
        self._complaints: list[bytes] = []
        places = [os.open(f"/proc/{original}/root{place}", os.O_RDONLY | os.O_DIRECTORY) for place in OWN_PLACES]
        user, pids = (os.open(f"/proc/{original}/ns/{kind}", os.O_RDONLY) for kind in ("user", "pid"))
        isolate.join(pids, isolate.NEWPID)  # children to come, not this process
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._verdict, judged = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if isolate.clone_beside() == 0:
            self._end.close()
            self._verdict.close()
            _speak(theirs, lambda: _open_door(theirs, judged, user, lambda: _be_an_init(theirs, limits, places)))
        theirs.close()
        judged.close()

    def init(self) -> int:
        """The pid of its init, when there are all its namespaces; nothing is mounted in them yet. Raises Refused."""
        return self._await(b"init")

    def finished(self) -> int:
        """When the mounts and the files are there, and its init is what inits are: the pid of a process in the user namespace
        that is for the original. Raises Refused."""
        while self._hear():
            pass
        if self._complaints:
            raise Refused(self._complaint)
        return self._await(b"holder")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self._verdict.send(b"moved on")
        else:
            while self._hear():  # whoever was made is known then, and can be ended
                pass
            self._verdict.shutdown(socket.SHUT_WR)
            self._verdict.recv(1)  # the door is closed
        if b"holder" in self._said:
            with suppress(ProcessLookupError):
                os.kill(self._said[b"holder"], signal.SIGKILL)
        if self._complaints and not isinstance(error, Refused):
            raise Refused(self._complaint) from error  # whatever else went wrong, this is why

    def _await(self, word: bytes) -> int:
        while word not in self._said and self._hear():
            pass
        if word not in self._said:
            raise Refused(self._complaint)
        return self._said[word]

    @property
    def _complaint(self) -> str:
        return self._complaints[0].decode("utf-8", "replace") if self._complaints else "its world was not made"

    def _hear(self) -> bool:
        """False when all of them have closed their ends, the init by becoming a program of its own."""
        word, ancillary, _, _ = self._end.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        if word in (b"init", b"holder"):
            self._said[word] = _CREDENTIALS.unpack(ancillary[0][2])[0]
            if word == b"init":
                self._born(self._said[word])
        elif word:
            self._complaints.append(word)
        return bool(word)


def _speak(end: socket.socket, act: Callable[[], None]) -> NoReturn:
    """Say what goes wrong, and end."""
    try:
        act()
    except BaseException as error:
        kind = "" if isinstance(error, Refused) else f"{type(error).__name__}: "
        end.send(f"{kind}{error}".encode("utf-8", "replace")[:2000])
    finally:
        os._exit(0)


def _open_door(end: socket.socket, verdict: socket.socket, user: int, furnish: Callable[[], None]) -> None:
    """In the original's user namespace, with all rights there: let further ones be made, the original's next and the copy's."""
    isolate.join(user, isolate.NEWUSER)
    isolate.become(isolate.UID)
    isolate.allow_user_namespaces(_MANY)

    def hold() -> None:
        verdict.close()
        _nest()
        end.send(b"holder")
        end.close()
        signal.alarm(PATIENCE_S)  # should whoever ends it otherwise be ended first
        while True:
            signal.pause()

    def found() -> None:
        verdict.close()
        _nest(isolate.WORLD)
        if isolate.clone_beside() == 0:
            _speak(end, furnish)

    for act in (found, hold):  # the one that takes longer first
        if isolate.clone_beside() == 0:
            _speak(end, act)
    end.close()
    if verdict.recv(16) != b"moved on":
        isolate.allow_user_namespaces(0)


def _nest(others: int = 0) -> None:
    try:
        isolate.enter_user_namespace(others)
    except OSError as error:
        raise (Refused(NO_DEEPER) if error.errno == errno.ENOSPC else error) from None


def _be_an_init(end: socket.socket, limits: isolate.Limits, places: list[int]) -> None:
    """The first process of the copy's pid namespace: mounts, the original's files, and nothing more to do."""
    isolate.let_enter()
    end.send(b"init")
    isolate.furnish(limits, isolate.UID)
    for descriptor, place in zip(places, OWN_PLACES, strict=True):
        try:
            shutil.copytree(f"/proc/self/fd/{descriptor}", place, symlinks=True, dirs_exist_ok=True)
        except (OSError, shutil.Error, RecursionError) as error:
            raise Refused(f"its files in {place} cannot be copied: {str(error)[:500]}") from None
    isolate.become_init(limits)
