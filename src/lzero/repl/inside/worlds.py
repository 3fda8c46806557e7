"""The processes that a zygote answers for: of every REPL, its init and its session.

A copy's pid namespace is within that of its original. So an original that has ended while copies of it live leaves its init to
them, and what its session left behind is ended one by one.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

_CLEAR_S = 1.0
"""For what a session left behind. What still forks then takes its copies along: nothing outlives its REPL."""


@dataclass
class World:
    number: int
    init: int
    """0 when it has ended, as for the session."""
    session: int
    above: "World | None"
    below: list["World"] = field(default_factory=list)
    status: int = 0
    """How the session ended."""
    told: bool = False


class Worlds:
    """Of one zygote."""

    def __init__(self, exited: Callable[[int, int], None]) -> None:
        """`exited(number, code)`: a REPL has ended, with everything in it."""
        self._exited = exited
        self._by_number: dict[int, World] = {}
        self._by_pid: dict[int, World] = {}
        self._strays: dict[int, int] = {}
        self._expecting = 0
        """Copies in the making: a child that nobody knows may be one of them, and what it ended with is kept."""

    def expect(self, copies: int) -> None:
        """So many more are in the making, or so many fewer."""
        self._expecting += copies
        if not self._expecting:
            self._strays.clear()

    def add(self, number: int, init: int, session: int, above: World | None) -> None:
        """`above`: the one whose pid namespace its own is in; its session may have ended meanwhile."""
        world = World(number, init, session, above)
        self._by_number[number] = self._by_pid[init] = self._by_pid[session] = world
        if world.above is not None:
            world.above.below.append(world)
        for pid in (init, session):  # in this order: one that has ended is not signalled any more
            if pid in self._strays:
                self._ended(pid, self._strays.pop(pid))

    def living(self, number: int) -> World | None:
        """None where the session has ended."""
        world = self._by_number.get(number)
        return world if world is not None and world.session else None

    def signal(self, number: int, sent: int) -> None:
        """Kill with its init, if it has it to itself; any other signal is for the session."""
        world = self._by_number.get(number)
        if world is not None and world.session:
            os.kill(world.init if sent == signal.SIGKILL and world.init and not world.below else world.session, sent)

    def discard(self, init: int) -> None:
        """Of a copy that did not come to be."""
        if init and init not in self._strays:
            with suppress(ProcessLookupError):
                os.kill(init, signal.SIGKILL)

    def reap(self) -> None:
        while self._by_pid or self._expecting:
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
        world = self._by_pid.pop(pid)
        if pid == world.session:
            world.session, world.status = 0, status
            if world.below and world.init:
                _clear(world.init)
                self._tell(world)
            elif world.init:
                os.kill(world.init, signal.SIGKILL)
        else:
            world.init = 0
        if not world.session and not world.init:
            self._tell(world)
            self._leave(world)

    def _tell(self, world: World) -> None:
        if not world.told:
            world.told = True
            del self._by_number[world.number]
            self._exited(world.number, os.waitstatus_to_exitcode(world.status))

    def _leave(self, world: World) -> None:
        above = world.above
        if above is None:
            return
        above.below.remove(world)
        if not above.below and not above.session and above.init:
            os.kill(above.init, signal.SIGKILL)


def _clear(init: int) -> None:
    """End what a session left behind: all has become its init's, and is reaped by it."""
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
