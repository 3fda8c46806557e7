"""Track the processes of a zygote's REPLs: the init and the session of each.

A copy's pid namespace is inside its original's. So if an original ends while copies of it live, its init stays for them, and the session's
remaining processes are ended one by one.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

_CLEAR_S = 1.0
"""Seconds to end a session's remaining processes. If they still fork then, its init is killed, and its copies with it: nothing outlives its
REPL.
"""


@dataclass
class Family:
    """One REPL, with the REPL that it was copied from (`above`) and its copies (`below`)."""

    number: int
    init: int
    """0 after its end, as for the session."""
    session: int
    above: "Family | None"
    below: list["Family"] = field(default_factory=list)
    status: int = 0
    """The session's wait status."""
    told: bool = False


class Families:
    """All REPLs of one zygote."""

    def __init__(self, exited: Callable[[int, int], None]) -> None:
        """`exited(number, code)`: called when a REPL has ended, with everything in it."""
        self._exited = exited
        self._by_number: dict[int, Family] = {}
        self._by_pid: dict[int, Family] = {}
        self._strays: dict[int, int] = {}
        self._expecting = 0
        """Number of copies in progress. An unknown child may be one of them, so its wait status is kept."""

    def expect(self, copies: int) -> None:
        """Add `copies` to the number of copies in progress."""
        self._expecting += copies
        if not self._expecting:
            self._strays.clear()

    def add(self, number: int, init: int, session: int, above: Family | None) -> None:
        """Add a REPL. `above`: the one whose pid namespace contains its own; its session may have ended meanwhile."""
        family = Family(number, init, session, above)
        self._by_number[number] = self._by_pid[init] = self._by_pid[session] = family
        if family.above is not None:
            family.above.below.append(family)
        for pid in (init, session):  # in this order, so that an init that has ended is not signalled
            if pid in self._strays:
                self._ended(pid, self._strays.pop(pid))

    def living(self, number: int) -> Family | None:
        """Return the REPL of this number; None if its session has ended."""
        family = self._by_number.get(number)
        return family if family is not None and family.session else None

    def signal(self, number: int, sent: int) -> None:
        """Send a signal to a session. A kill also reaches its init, unless copies share it. An interrupt also reaches the processes that
        the session waits for, as from a terminal. Any other signal reaches the session alone."""
        family = self._by_number.get(number)
        if family is None or not family.session:
            return
        if sent == signal.SIGKILL and family.init and not family.below:
            os.kill(family.init, sent)
        elif sent == signal.SIGINT:
            os.killpg(family.session, sent)
        else:
            os.kill(family.session, sent)

    def discard(self, init: int) -> None:
        """Kill the init of a copy that failed."""
        if init and init not in self._strays:
            with suppress(ProcessLookupError):
                os.kill(init, signal.SIGKILL)

    def reap(self) -> None:
        while True:  # helpers of a copy are reaped too; some end after all REPLs
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._by_pid:
                self._ended(pid, status)
            elif self._expecting:
                self._strays[pid] = status

    def _ended(self, pid: int, status: int) -> None:
        family = self._by_pid.pop(pid)
        if pid == family.session:
            family.session, family.status = 0, status
            if family.below and family.init:
                _clear(family.init)
                self._tell(family)
            elif family.init:
                os.kill(family.init, signal.SIGKILL)
        else:
            family.init = 0
        if not family.session and not family.init:
            self._tell(family)
            self._leave(family)

    def _tell(self, family: Family) -> None:
        if not family.told:
            family.told = True
            del self._by_number[family.number]
            self._exited(family.number, os.waitstatus_to_exitcode(family.status))

    def _leave(self, family: Family) -> None:
        above = family.above
        if above is None:
            return
        above.below.remove(family)
        if not above.below and not above.session and above.init:
            os.kill(above.init, signal.SIGKILL)


def _clear(init: int) -> None:
    """End the remaining processes of a session. Its init has adopted all of them, and reaps them."""
    until = time.monotonic() + _CLEAR_S
    while time.monotonic() < until:
        left: list[str] = []
        with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{init}/task/{init}/children") as file:
            left = file.read().split()
        if not left:
            return
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.0005)  # they need some to end
    os.kill(init, signal.SIGKILL)
