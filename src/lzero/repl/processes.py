"""Reads in /proc what processes and the machine hold and use, and stops processes that come and go meanwhile.

proc(5): meminfo, status, smaps_rollup, stat, task/<tid>/children. proc_pid_net(5): sockstat.
"""

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

_PROC = "/proc"
_TICKS = os.sysconf("SC_CLK_TCK")
_ROUNDS, _ROUND_S = 256, 0.002
"""Rounds, and seconds of each, for all processes of a REPL to stop. Each that stops leaves fewer that can fork, so a few rounds are usual.
On a busy machine a process may wait long for a core, which it needs to stop: the second half of the rounds counts it as stopped. If it is
then in the middle of a fork, this standstill misses its child; the next one sees it."""
_CALM = 3
"""Rounds in a row that find the same processes, all of them stopped. One is not enough: the kernel may leave a child out of a list that it
writes while another child ends."""
_HELD = re.compile(rb"^(?:VmRSS|VmPTE|VmSwap|HugetlbPages):\s+(\d+) kB$", re.MULTILINE)
_PAGE_TABLES = re.compile(rb"^VmPTE:\s+(\d+) kB$", re.MULTILINE)
_PROPORTIONAL = re.compile(rb"^(?:Pss|SwapPss|Shared_Hugetlb|Private_Hugetlb):\s+(\d+) kB$", re.MULTILINE)
_STATE = re.compile(rb"^State:\s+(\S)", re.MULTILINE)
_PARENT = re.compile(rb"^PPid:\s+(\d+)$", re.MULTILINE)
_PENDING = re.compile(rb"^ShdPnd:\s+([0-9a-f]+)$", re.MULTILINE)
_THREADS = re.compile(rb"^Threads:\s+(\d+)$", re.MULTILINE)
_TRIES = 4
"""Readings of a process whose threads start each other and end meanwhile, before it counts as unseen."""
_SOCKETS = re.compile(rb"^sockets: used (\d+)$", re.MULTILINE)
_STOPPED = (b"T", b"t", b"X", b"Z")
"""stopped, by a signal or a tracer; dead"""


class Unseen(Exception):
    """No thread of a process could be read before it ended. A standstill shows what such a process holds."""


class Restless(Exception):
    """The processes below some roots did not stop: they start and continue each other faster than the host stops them."""


def tree(roots: Sequence[int]) -> list[int]:
    """Return processes and their descendants."""
    found = dict.fromkeys(roots)
    waiting = list(found)
    while waiting:
        children = [child for pid in waiting for child in _children(pid)]
        waiting = [child for child in dict.fromkeys(children) if child not in found]
        found |= dict.fromkeys(waiting)
    return list(found)


def memory_of(pids: Iterable[int], *, enough: int, still: bool = False) -> int:
    """Return the bytes that processes hold, page tables and swapped pages included; 0 for one that is gone.

    If resident memory is at most `enough`, it is the result. Otherwise a page that several processes share, with the zygote above all, is
    divided among them. `still`: the processes are stopped, so one without any thread that shows memory is ending. Raises Unseen;
    PermissionError if the host may not look.
    """
    pids = list(pids)
    resident = resident_bytes(pids, still=still)
    return resident if resident <= enough else sum(_proportional(pid, still=still) for pid in pids)


def resident_bytes(pids: Iterable[int], *, still: bool = False) -> int:
    """Return the bytes that processes hold, where a page that several share counts for each of them. Raises as `memory_of` does."""
    return sum(_sum(_HELD, _living(pid, still=still)[1]) for pid in pids)


def machine_bytes(name: str) -> int:
    """Return a figure of /proc/meminfo, as "MemAvailable"; 0 if the host cannot read it just now."""
    try:
        found = re.search(rb"^%s:\s+(\d+) kB$" % name.encode(), _read(f"{_PROC}/meminfo"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


def cpu_s_of(pids: Iterable[int]) -> float:
    """Return the processor seconds of processes and of those that they have waited for; 0 for one that is gone."""
    return sum(map(_ticks, pids)) / _TICKS


def sockets_of(pids: Iterable[int]) -> int:
    """Return the number of sockets in the network namespace of the first process that exists.

    It includes sockets that no process holds any more: closed ones with unread bytes, connections that were not accepted, and descriptors
    that were not received.
    """
    for pid in pids:
        directory, _ = _living(pid, still=True)
        if directory and (found := _SOCKETS.search(_read(f"{directory}/net/sockstat"))):
            return int(found[1])
    return 0


def waits(thread: int) -> bool:
    """Return whether a thread of this process waits in the kernel, and not for a processor, a timer or Python's lock."""
    state = _STATE.search(_read(f"/proc/self/task/{thread}/status"))
    return state is not None and state[1] == b"D"


@contextmanager
def standstill(roots: Sequence[int]) -> Iterator[list[int]]:
    """Stop processes and their descendants, and continue them in the end; those that were stopped before stay stopped.

    A process that forks before it stops leaves a child, which the next round stops. So no child is born that shares memory with
    a stopped process and is not stopped itself. Raises Restless.
    """
    stopped: dict[int, int] = {}  # pid → pidfd
    before: list[int] = []
    calm = 0
    try:
        for number in range(_ROUNDS):
            pids = tree(roots)
            running = [pid for pid in pids if not _stands(pid, about_to=number > _ROUNDS / 2)]
            calm = calm + 1 if not running and pids == before else 0
            if calm == _CALM:
                break
            before = pids
            for pid in running:
                _stop(pid, stopped, family=pids, roots=roots)
            time.sleep(_ROUND_S)
        else:
            raise Restless
        yield pids
    finally:
        for descriptor in stopped.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            os.close(descriptor)


def _stop(pid: int, stopped: dict[int, int], *, family: Sequence[int], roots: Sequence[int]) -> None:
    with suppress(ProcessLookupError):
        if pid not in stopped:
            descriptor = os.pidfd_open(pid)
            # The pid may have become another process's since it was listed. It cannot any more while the descriptor is open.
            parent = _PARENT.search(_read(f"{_PROC}/{pid}/status"))
            if pid not in roots and (parent is None or int(parent[1]) not in family):
                os.close(descriptor)
                return
            stopped[pid] = descriptor
        signal.pidfd_send_signal(stopped[pid], signal.SIGSTOP)


def _stands(pid: int, *, about_to: bool) -> bool:
    """Return whether a process is stopped, or can never fork again: it is gone, or is ending and has released its memory.

    `about_to`: a process with a pending SIGSTOP counts as stopped, and so does one that is unseen: it has been sent SIGSTOP, and no
    thread starts another one before it heeds that.
    """
    try:
        _, status = _living(pid)
    except Unseen:
        return about_to
    state, pending = _STATE.search(status), _PENDING.search(status)
    if state is None or pending is None or not _HELD.search(status):
        return True
    return state[1] in _STOPPED or (about_to and bool(int(pending[1], 16) >> (signal.SIGSTOP - 1) & 1))


def _children(pid: int) -> list[int]:
    """Return the children of a process. A thread that ends meanwhile leaves its children to another one, so all are read again."""
    found: dict[int, None] = {}
    for _ in range(_TRIES):
        threads = _threads(pid)
        of_threads = [_read(f"{_PROC}/{pid}/task/{thread}/children") for thread in threads]
        found |= dict.fromkeys(int(child) for children in of_threads for child in children.split())
        if set(threads) <= set(_threads(pid)):
            break
    return list(found)


def _threads(pid: int) -> list[str]:
    """Return the threads of a process; none if it is gone."""
    try:
        return os.listdir(f"{_PROC}/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _living(pid: int, *, still: bool = False) -> tuple[str, bytes]:
    """Return the directory in /proc, and the status, of a thread that shows the memory of a process; "" if the process is gone.

    A first thread that has ended shows no memory, while the others still have all of it. Raises Unseen if each of these ends before it is
    read. `still`: a process without a thread that shows memory is ending, and its first thread is returned.
    """
    directory = f"{_PROC}/{pid}"
    for _ in range(_TRIES):
        status = _read(f"{directory}/status")
        if not status or _HELD.search(status):
            return (directory if status else "", status)
        for thread in _threads(pid):
            of_thread = _read(f"{directory}/task/{thread}/status")
            if _HELD.search(of_thread):
                return f"{directory}/task/{thread}", of_thread
        threads = _THREADS.search(status)
        if still or threads is None or int(threads[1]) <= 1:  # a process that is ending, or a thread of the kernel
            return directory, status
    raise Unseen


def _proportional(pid: int, *, still: bool) -> int:
    """Return the proportional memory of a process in bytes. Raises as `memory_of` does."""
    for _ in range(_TRIES):
        directory, status = _living(pid, still=still)
        proportional = _read(f"{directory}/smaps_rollup") if directory else b""
        if proportional or not _HELD.search(status):
            return _sum(_PAGE_TABLES, status) + _sum(_PROPORTIONAL, proportional)
    raise Unseen


def _sum(lines: re.Pattern[bytes], text: bytes) -> int:
    """Return the sum in bytes of lines in kB."""
    return sum(map(int, lines.findall(text))) << 10


def _ticks(pid: int) -> int:
    _, _, after_name = _read(f"{_PROC}/{pid}/stat").rpartition(b")")
    return sum(map(int, after_name.split()[11:15]))  # utime, stime, cutime, cstime


def _read(path: str) -> bytes:
    """Return the content of a file in /proc; b"" if its process is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""
