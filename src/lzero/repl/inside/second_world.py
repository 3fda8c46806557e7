"""Make the namespaces of a copy next to those of its original, while that is stopped.

A user namespace inside the original's owns them, because otherwise the original's fork could not enter them. A process of a user namespace
has all rights over those inside it; so there is another one, for the original to step down into. See user_namespaces(7), pid_namespaces(7).
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
"""Seconds that making a copy may take. Then the copy is ended, and the original with it."""
_MANY = 1 << 30
_CREDENTIALS = struct.Struct("iII")


class CopyRefused(Exception):
    """The REPL cannot be copied; the message says why."""


class SecondWorld:
    """The world of a copy that is being made.

    Meanwhile the kernel allows further user namespaces inside the original's. After a success that stays so: original and copy are both in
    nested ones, and no process is left there. After a failure it is forbidden again. (The session is stopped meanwhile, and its filter
    would refuse it anyway.)
    """

    def __init__(self, original: int, limits: isolate.Limits, born: Callable[[int], None]) -> None:
        """Start to make the world, without waiting. Calls `born` with the pid of its init as soon as there is one."""
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
        """Return the pid of its init when all its namespaces exist; nothing is mounted in them yet. Raises CopyRefused."""
        return self._await(b"init")

    def finished(self) -> int:
        """Wait for the mounts, the files and the isolation of the init. Raises CopyRefused.

        Return the pid of a process in the user namespace that the original steps down into.
        """
        while self._hear():
            pass
        if self._complaints:
            raise CopyRefused(self._complaint)
        return self._await(b"holder")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self._verdict.send(b"moved on")
        else:
            while self._hear():  # then all its processes are known and can be ended
                pass
            self._verdict.shutdown(socket.SHUT_WR)
            self._verdict.recv(1)  # the door is closed
        if b"holder" in self._said:
            with suppress(ProcessLookupError):
                os.kill(self._said[b"holder"], signal.SIGKILL)
        if self._complaints and not isinstance(error, CopyRefused):
            raise CopyRefused(self._complaint) from error  # the cause of any other error

    def _await(self, word: bytes) -> int:
        while word not in self._said and self._hear():
            pass
        if word not in self._said:
            raise CopyRefused(self._complaint)
        return self._said[word]

    @property
    def _complaint(self) -> str:
        return self._complaints[0].decode("utf-8", "replace") if self._complaints else "its world was not made"

    def _hear(self) -> bool:
        """Read one message. Return False when all makers have closed their ends; the init does so when it becomes another program."""
        word, ancillary, _, _ = self._end.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        if word in (b"init", b"holder"):
            self._said[word] = _CREDENTIALS.unpack(ancillary[0][2])[0]
            if word == b"init":
                self._born(self._said[word])
        elif word:
            self._complaints.append(word)
        return bool(word)


def _speak(end: socket.socket, act: Callable[[], None]) -> NoReturn:
    """Run `act`, send its error, and exit."""
    try:
        act()
    except BaseException as error:
        kind = "" if isinstance(error, CopyRefused) else f"{type(error).__name__}: "
        end.send(f"{kind}{error}".encode("utf-8", "replace")[:2000])
    finally:
        os._exit(0)


def _open_door(end: socket.socket, verdict: socket.socket, user: int, furnish: Callable[[], None]) -> None:
    """Allow further user namespaces inside the original's, and make two: the original's next one and the copy's.

    Joins the original's user namespace, with all rights there.
    """
    isolate.join(user, isolate.NEWUSER)
    isolate.become(isolate.UID)
    isolate.allow_user_namespaces(_MANY)

    def hold() -> None:
        verdict.close()
        _nest()
        end.send(b"holder")
        end.close()
        signal.alarm(PATIENCE_S)  # in case the process that ends it is ended first
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
        raise (CopyRefused(NO_DEEPER) if error.errno == errno.ENOSPC else error) from None


def _be_an_init(end: socket.socket, limits: isolate.Limits, places: list[int]) -> None:
    """Run as the first process of the copy's pid namespace: make the mounts, copy the original's files, and become an init."""
    isolate.let_enter()
    end.send(b"init")
    isolate.furnish(limits, isolate.UID)
    for descriptor, place in zip(places, OWN_PLACES, strict=True):
        try:
            shutil.copytree(f"/proc/self/fd/{descriptor}", place, symlinks=True, dirs_exist_ok=True)
        except (OSError, shutil.Error, RecursionError) as error:
            raise CopyRefused(f"its files in {place} cannot be copied: {str(error)[:500]}") from None
    isolate.become_init(limits)
