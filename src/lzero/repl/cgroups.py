"""Bound what one REPL holds and uses with control groups, if this process may make them.

Every REPL gets a group below lzero's own, so the bounds of lzero bound its REPLs too. The place of the memory controller tells v2 (one
tree) from v1 (a tree for each controller). cgroups(7); Documentation/admin-guide of the kernel: cgroup-v2.rst, cgroup-v1/memory.rst.
"""

import asyncio
import errno
import itertools
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lzero.config import ReplConfig
from lzero.errors import SandboxError
from lzero.repl.jail import Limits
from lzero.repl.processes import tree
from lzero.repl.unbounded import without_groups

logger = logging.getLogger(__name__)
Kind = Literal["v1", "v2"]
NEEDED = ("memory", "pids")
_PERIOD_US = 100_000
_CLOSE_TIMEOUT_S = 5.0
_REMEMBERED_S = 0.002
"""Seconds for which one finished wait of the kernel makes the next one short."""
_OWN_PROCESSES = 4
"""Number of processes of the sandbox itself in a REPL's group. With them, a REPL reaches its own limit before the group's."""
_MOST_PIDS = 1 << 22
"""The highest limit that the kernel accepts. Beyond it, only the REPL's own limit holds."""
_NAME = re.compile(r"lzero-(\d+)-(\d+)-(\w+)")
"""lzero-<pid>-<start time>-<what>: the name identifies its maker, even after that has died."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Group:
    """The control group of one REPL: one directory, or one for each controller."""

    directories: tuple[Path, ...]
    events: Path
    """The file that counts what the kernel killed."""
    limit_bytes: int

    def add(self, pids: Iterable[int]) -> None:
        """Put processes into the group; skip those that have ended. Raises SandboxError.

        Sometimes blocks for about 10 ms, until the kernel sees no processor in the middle of a fork.
        """
        for pid in pids:
            for directory in self.directories:
                try:
                    _write(directory / "cgroup.procs", str(pid))
                except ProcessLookupError:
                    break
                except OSError as error:
                    raise SandboxError(f"a REPL could not be put into its control group: {error}") from None

    def pids(self) -> set[int]:
        """Return the pids of the processes in the group."""
        return {int(pid) for pid in (self.directories[0] / "cgroup.procs").read_text(encoding="ascii").split()}

    def objection(self) -> str:
        """Return why the REPL must end; "" if it may go on."""
        try:
            killed = _events(self.events).get("oom_kill", 0)
        except FileNotFoundError:  # the machine's manager of groups has removed it, or its controller
            return "memory: the control group that bounds it is gone"
        except OSError:  # the host is short of something: the next look tells
            return ""
        if not killed:
            return ""
        return f"memory: its processes and workspace together reached {self.limit_bytes >> 20:,} MB, and the kernel ended some"

    def remove(self) -> bool:
        """Remove the group. Return False if a process in it has not ended yet."""
        gone = True
        for directory in self.directories:
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone


class Groups:
    """Makes the control groups of REPLs. `find` finds their place."""

    def __init__(self, kind: Kind, places: Mapping[str, Path], cores: float = 0.0) -> None:
        """`places`: controller → the directory in which groups are made. `cores`: processors that each REPL may use; 0 for no limit."""
        self.kind: Kind = kind
        self.places = dict(places)
        self._cores = cores
        self._busy: list[Group] = []
        self._own = dict(_places())["" if kind == "v2" else "memory"]

    def make(self, limits: Limits) -> Group:
        """Make an empty group with these limits. Raises SandboxError."""
        self._busy = [group for group in self._busy if not group.remove()]
        name = _name(str(next(_numbers)))
        directories = tuple(dict.fromkeys(place / name for place in self.places.values()))
        # The workspace is memory too: a full one alone must not end its REPL.
        limit_bytes = limits.memory_bytes + limits.disk_bytes
        memory = self.places["memory"] / name
        group = Group(
            directories, memory / ("memory.events" if self.kind == "v2" else "memory.oom_control"), limit_bytes
        )
        try:
            for directory in directories:
                directory.mkdir()
            for controller, file, value in self._settings(limits, limit_bytes):
                _write(self.places[controller] / name / file, value)
        except OSError as error:
            group.remove()
            raise SandboxError(f"a REPL's control group could not be made: {error}") from None
        return group

    def announce(self) -> None:
        """Begin to move this process into the group that it is in. The kernel's wait is then over, or nearly, when a REPL's process
        follows.

        It only saves time.
        """
        with suppress(RuntimeError):  # no thread can be started
            asyncio.get_running_loop().run_in_executor(None, self._announce)

    @asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        """Repeat `announce` during the block, which takes longer than the kernel remembers one."""
        announcing = asyncio.create_task(self._announce_on())
        try:
            yield
        finally:
            announcing.cancel()

    async def _announce_on(self) -> None:
        with suppress(RuntimeError):
            while True:
                await asyncio.to_thread(self._announce)
                await asyncio.sleep(_REMEMBERED_S)

    def _announce(self) -> None:
        with suppress(OSError):
            _write(self._own / "cgroup.procs", str(os.getpid()))

    def remove(self, group: Group) -> None:
        """Remove the group now, or as soon as it is empty."""
        if not group.remove():
            self._busy.append(group)

    async def close(self) -> None:
        """Remove the groups that could not be removed before. A group that is still busy after some seconds is left to the next start."""
        until = time.monotonic() + _CLOSE_TIMEOUT_S
        while (busy := [group for group in self._busy if not group.remove()]) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        self._busy = busy

    def sweep(self) -> None:
        """Remove groups whose maker has died."""
        for place in dict.fromkeys(self.places.values()):
            for directory in place.glob("lzero-*"):
                if (match := _NAME.fullmatch(directory.name)) and _start_time(int(match[1])) != match[2]:
                    with suppress(OSError):  # not empty yet: the next one removes it
                        directory.rmdir()

    def prove(self) -> None:
        """Put a process into a group, to check that groups work. Raises SandboxError."""
        group = self.make(Limits())
        try:
            with subprocess.Popen([sys.executable, "-I", "-c", "input()"], stdin=subprocess.PIPE) as process:
                try:
                    group.add([process.pid])
                    if process.pid not in group.pids():
                        raise SandboxError("a process that was put into a control group is not in it")
                finally:
                    process.kill()
        except OSError as error:
            raise SandboxError(f"a control group could not be tried: {error}") from None
        finally:
            self.remove(group)

    def _settings(self, limits: Limits, limit_bytes: int) -> Iterator[tuple[str, str, str]]:
        """Yield (controller, file, value) in an order that the kernel accepts."""
        quota = str(round(self._cores * _PERIOD_US))
        if self.kind == "v2":
            yield "memory", "memory.max", str(limit_bytes)
            yield "memory", "memory.oom.group", "1"
            if _swaps(self.places["memory"]):
                yield "memory", "memory.swap.max", "0"
        else:
            yield "memory", "memory.limit_in_bytes", str(limit_bytes)
            if (self.places["memory"] / "memory.memsw.limit_in_bytes").exists():
                yield "memory", "memory.memsw.limit_in_bytes", str(limit_bytes)
        yield "pids", "pids.max", str(min(max(limits.processes, 0) + _OWN_PROCESSES, _MOST_PIDS))
        if self._cores and self.kind == "v2":
            yield "cpu", "cpu.max", f"{quota} {_PERIOD_US}"
        elif self._cores:
            yield "cpu", "cpu.cfs_period_us", str(_PERIOD_US)
            yield "cpu", "cpu.cfs_quota_us", quota


class Held(Protocol):
    """A REPL with the attributes that control groups need."""

    group: Group | None

    async def forked(self) -> int:
        """Return the pid of its session on the host; 0 if the session has ended."""


@asynccontextmanager
async def holding(repl: Held) -> AsyncIterator[None]:
    """Put a REPL's process into its group while it becomes a session. Raises SandboxError.

    At the end of the block all its processes are in the group, before any cell has run.
    """
    if repl.group is None:
        yield
        return
    adding = asyncio.create_task(add_session(repl))
    try:
        yield
        await adding
        pid = await repl.forked()
        left = set(tree([pid])) - repl.group.pids() if pid else set()
        if left:  # started before its parent was put there
            await asyncio.to_thread(repl.group.add, left)
    except OSError as error:
        raise SandboxError(f"a REPL's control group cannot be read: {error}") from None
    finally:
        adding.cancel()
        await asyncio.gather(adding, return_exceptions=True)


async def add_session(repl: Held) -> None:
    """Put the REPL's first process into its group, if both exist. Raises SandboxError."""
    pid = await repl.forked()
    try:
        if pid and repl.group is not None:  # 0 would be this process
            await asyncio.to_thread(repl.group.add, [pid])
    except RuntimeError as error:  # no thread can be started
        raise SandboxError(f"a REPL could not be put into its control group: {error}") from None


def open_groups(config: ReplConfig) -> Groups | None:
    """Return the groups that `config` asks for, after a test. Raises SandboxError if groups are required and unavailable.

    Return None and log a warning if the configuration turns groups off, or they are optional and unavailable.
    """
    if config.cgroups == "off" and config.cores:
        raise SandboxError(f"repl.cores = {config.cores:g} needs control groups, and repl.cgroups is 'off'")
    try:
        if config.cgroups == "off":
            raise SandboxError("repl.cgroups is 'off'")
        groups = find(config.cores)
        groups.sweep()
        groups.prove()
    except SandboxError as error:
        if config.cores:
            raise SandboxError(
                f"repl.cores = {config.cores:g} needs control groups: {error}; set it to 0 for no limit"
            ) from None
        if config.cgroups == "on":
            raise SandboxError(f"repl.cgroups is 'on': {without_groups(str(error))}") from None
        logger.warning("%s", without_groups(str(error)))
        return None
    return groups


def find(cores: float = 0.0) -> Groups:
    """Find the place where this process may make groups. Raises SandboxError, which says why it may not."""
    needed = (*NEEDED, "cpu") if cores else NEEDED
    try:
        places = dict(_places())
        if "" in places and "memory" in _controllers(places[""]):
            place = _unified(places[""], needed)
            return Groups("v2", dict.fromkeys(_controllers(place, "cgroup.subtree_control"), place), cores)
    except OSError as error:
        raise SandboxError(f"control groups cannot be used: {error}") from None
    if missing := [controller for controller in needed if controller not in places]:
        raise SandboxError(
            f"no control group has the controllers {', '.join(missing)} (neither v2 nor v1 is mounted with it)"
        )
    if refused := [controller for controller in needed if not os.access(places[controller], os.W_OK)]:
        raise SandboxError(f"cannot make a control group in {places[refused[0]]}: it is not delegated to this user")
    mine = {name: place for name, place in places.items() if name in (*NEEDED, "cpu") and os.access(place, os.W_OK)}
    return Groups("v1", mine, cores)


def _places() -> Iterator[tuple[str, Path]]:
    """Yield (controller, the directory of this process's group); the controller of v2 is ""."""
    own = dict(_own_paths())
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        root, mounted = fields.split()[3:5]
        kind, _, options = rest.split(" ", 2)
        for controller in ("",) if kind == "cgroup2" else options.split(",") if kind == "cgroup" else ():
            path = own.get(controller)
            if path is not None and (path == root or path.startswith(root.rstrip("/") + "/")):
                yield controller, Path(mounted + path.removeprefix(root.rstrip("/"))).resolve()


def _own_paths() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _unified(own: Path, needed: Iterable[str]) -> Path:
    """Return a v2 group that passes its controllers on. It must have no processes, so this process moves into a leaf below it.

    Raises SandboxError, OSError.
    """
    place = own.parent if _NAME.fullmatch(own.name) else own  # this process, or its parent, moved into a leaf before
    if missing := set(needed) - _controllers(place):
        raise SandboxError(f"the control group {place} has no {', '.join(sorted(missing))} controller")
    wanted = [name for name in (*NEEDED, "cpu") if name in _controllers(place)]
    if set(wanted) <= _controllers(place, "cgroup.subtree_control"):
        return place
    aside = place / _name("host")
    try:
        aside.mkdir(exist_ok=True)
        _write(aside / "cgroup.procs", "0")
        _write(place / "cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))
        if "cpu" in wanted:
            _write(aside / "cpu.weight", "10000")  # all that lzero does is one group now, and each REPL is another
    except OSError as error:
        with suppress(OSError):
            _write(place / "cgroup.procs", "0")
        with suppress(OSError):
            aside.rmdir()
        hint = "it holds other processes too" if error.errno == errno.EBUSY else "it is not delegated to this user"
        raise SandboxError(f"cannot make a control group in {place}: {hint}") from None
    return place


def _controllers(group: Path, file: str = "cgroup.controllers") -> set[str]:
    return set((group / file).read_text(encoding="ascii").split())


def _swaps(place: Path) -> bool:
    """Return whether the groups below `place` have a limit on swap. Every group has that file except the root."""
    return any(
        child.name == "memory.swap.max" for group in place.iterdir() if group.is_dir() for child in group.iterdir()
    )


def _events(file: Path) -> dict[str, int]:
    lines = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return {name: int(number) for name, number in lines}


def _name(what: str) -> str:
    return f"lzero-{os.getpid()}-{_start_time(os.getpid())}-{what}"


def _start_time(pid: int) -> str:
    """Return the process's start time in clock ticks since the machine started; "" if it has ended. proc(5): stat."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _write(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
