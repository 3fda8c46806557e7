"""Filter system calls, for a process and all its children, for good.

The filter refuses what Python, numpy and pandas never need: other namespaces, mounts, kernel modules, tracing, keyrings, io_uring, every
socket that is not AF_UNIX. A refused call fails with EPERM, as it would without the right to it. `clone3` and `openat2` fail with ENOSYS,
so that programs fall back to `clone` and `openat`, whose flags a filter can read. A call by another ABI ends the process. seccomp(2), and
Documentation/userspace-api/seccomp_filter.rst of the kernel.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""AUDIT_ARCH of the machine, and its column in the tables below."""
_X32 = 0x40000000
"""Bit of a system call number of the x32 ABI, which shares x86-64's AUDIT_ARCH."""

_TABLE = (Path(__file__).parent / "refused_calls.txt").read_text(encoding="ascii")
_REFUSED = [line.split()[1:] for line in _TABLE.splitlines() if line and not line.startswith("#")]
"""Numbers of each refused call on x86-64 and on arm64, as text; "-" where there is none."""
_NEWER = 468
"""The first call that is newer than these tables (Linux 6.17). It and all after it fail with ENOSYS, as on an older kernel."""
_UNREADABLE = ((435, 435), (437, 437))
"""clone3 and openat2, whose flags lie in memory."""
_SETNS, _STEPS = (308, 268), (0x10000000, 0x7C020000)
"""Steps that a copy and its original make while they are stopped (`copying`): enter a user namespace, or one with all that it owns. They
require the key. So does CLONE_PARENT: a sibling would neither be found nor counted among a session's processes."""
_CLONE_PARENT = 0x8000
_KEY = (0xFFFFFFF0, 0xFFFFFFF1)
"""Placeholders of the two halves of the key."""
_CLONE, _NEW_NAMESPACES = (56, 220), 0x7E020000
_CLONE_FILES, _CLONE_THREAD = 0x400, 0x10000
"""Locks on files belong to a table of descriptors, and their pid is that of a process. If processes shared a table, locks could outlive
their pid, and the host could not tell whose they are."""
_PRLIMIT, _RLIMIT_CORE = (302, 261), 4
"""The limit that keeps the host's handler of core dumps from running must not change: even 0 would let it run."""

_LOAD, _AND, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND, _THIRD, _FOURTH, _SIXTH = 0, 4, 16, 24, 32, 40, 56
"""Offsets in `struct seccomp_data`; for an argument, that of its lower half, which is all that the rules below test."""
_PR_SET_SECCOMP, _FILTER_MODE = 22, 2
_REFUSE, _NO_FAMILY = _ERRNO | errno.EPERM, _ERRNO | errno.EAFNOSUPPORT


class _Branch(NamedTuple):
    """Answers to a call by one of its arguments. An answer may be another branch, by another argument."""

    argument: int
    tests: "tuple[tuple[int, int | tuple[int, int], int | _Branch], ...]"
    """Comparisons, operands (one, or that of x86-64 and that of arm64), and the answers if the argument passes; the first one counts."""
    other: "int | _Branch"
    """The answer if it passes none."""
    mask: int = 0xFFFFFFFF
    """Bits of the argument that are compared."""


_O_DIRECT = (0x4000, 0x10000)
_NOT_DIRECT = ((_ANY_BIT, _O_DIRECT, _ERRNO | errno.EINVAL),)
"""No reading past the page cache: it would take all that the host's disk can give, again and again. Programs then read without O_DIRECT."""

_BY_ARGUMENT: tuple[tuple[tuple[int, int | None], _Branch], ...] = (
    # socket, socketpair: AF_UNIX only.
    ((41, 198), _Branch(_FIRST, ((_EQUAL, 1, _ALLOW),), _NO_FAMILY)),
    ((53, 199), _Branch(_FIRST, ((_EQUAL, 1, _ALLOW),), _NO_FAMILY)),
    # setsockopt: no buffers larger than the watchdog counts (SO_SNDBUF), and no programs on sockets (SO_ATTACH_FILTER,
    # SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF and _EBPF). Their memory is the kernel's, and where it is translated to machine code
    # it is counted for the whole machine: without it no filter can be made.
    ((54, 208), _Branch(_THIRD, tuple((_EQUAL, option, _REFUSE) for option in (7, 26, 50, 51, 52)), _ALLOW)),
    # personality: the ordinary one, and the query.
    ((135, 92), _Branch(_FIRST, ((_EQUAL, 0, _ALLOW), (_EQUAL, 0xFFFFFFFF, _ALLOW)), _REFUSE)),
    # ioctl: TIOCSTI and TIOCLINUX insert input as if the user had typed it; TIOCSETD makes the kernel load a module. Of file systems
    # (the kinds "f", "X" and 0x15; 0x94 of btrfs, 0xF5 of f2fs, "o" of ocfs2) only FS_IOC_GETFLAGS and FICLONE: the others tell where on
    # the disk files and free space are, and its name, and some of them write all of it back, or block every process that writes to it.
    (
        (16, 29),
        _Branch(
            _SECOND,
            (
                *((_EQUAL, command, _REFUSE) for command in (0x5412, 0x541C, 0x5423)),
                *((_EQUAL, command, _ALLOW) for command in (0x80086601, 0x40049409)),
            ),
            _Branch(
                _SECOND,
                tuple((_EQUAL, kind << 8, _REFUSE) for kind in (0x66, 0x58, 0x15, 0x94, 0xF5, 0x6F)),
                _ALLOW,
                mask=0xFF00,
            ),
        ),
    ),
    # open, openat; and fcntl with F_SETFL, which sets flags later.
    ((2, None), _Branch(_SECOND, _NOT_DIRECT, _ALLOW)),
    ((257, 56), _Branch(_THIRD, _NOT_DIRECT, _ALLOW)),
    # fcntl: no locks that belong to a descriptor (F_OFD_SETLK, F_OFD_SETLKW): their number is not limited, and no pid is known of them.
    # Of Linux's own commands (1024 and above) only F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_ADD_SEALS, F_GET_SEALS. The others watch
    # shared files (F_NOTIFY), hold up who opens them (F_SETLEASE), mark them (F_SET_RW_HINT), take pages of all (F_SETPIPE_SZ).
    (
        (72, 25),
        _Branch(
            _SECOND,
            (
                *((_EQUAL, command, _ALLOW) for command in (1030, 1032, 1033, 1034)),
                (_AT_LEAST, 1024, _REFUSE),
                *((_EQUAL, command, _ERRNO | errno.EINVAL) for command in (37, 38)),
                (_EQUAL, 4, _Branch(_THIRD, _NOT_DIRECT, _ALLOW)),
            ),
            _ALLOW,
        ),
    ),
    # setrlimit: RLIMIT_CORE stays.
    ((160, 164), _Branch(_FIRST, ((_EQUAL, _RLIMIT_CORE, _REFUSE),), _ALLOW)),
    # prctl: PR_SCHED_CORE keeps others from the second thread of a core; PR_SET_SECCOMP adds filters, as seccomp
    # does; PR_FUTEX_HASH takes a gigabyte of the kernel's memory at once; PR_SET_MEMORY_MERGE is MADV_MERGEABLE (below) for all memory.
    ((157, 167), _Branch(_FIRST, tuple((_EQUAL, option, _REFUSE) for option in (22, 62, 67, 78)), _ALLOW)),
    # mmap: MAP_HUGETLB takes from the machine's huge pages, which are few and are memory of no process. MAP_ANONYMOUS that is not
    # MAP_PRIVATE (or MAP_DROPPABLE) is a file without a name, which keeps its pages when they are not mapped any more.
    (
        (9, 222),
        _Branch(_FOURTH, ((_ANY_BIT, 0x40000, _REFUSE), (_ANY_BIT, 0x0A, _ALLOW), (_ANY_BIT, 0x20, _REFUSE)), _ALLOW),
    ),
    # Whether pages of shared files are in memory, and their way out of it: madvise (MADV_COLD, MADV_PAGEOUT), fadvise64
    # (POSIX_FADV_DONTNEED), preadv2 (RWF_NOWAIT, RWF_DONTCACHE). madvise with MADV_MERGEABLE would share equal pages with other
    # processes of the machine, and the time of writing to one tells whether another has it.
    ((28, 233), _Branch(_THIRD, tuple((_EQUAL, advice, _REFUSE) for advice in (12, 20, 21)), _ALLOW)),
    ((221, 223), _Branch(_FOURTH, ((_EQUAL, 4, _REFUSE),), _ALLOW)),
    ((327, 286), _Branch(_SIXTH, ((_ANY_BIT, 0x88, _REFUSE),), _ALLOW)),
)
_SYNCS = ((74, 82), (75, 83), (277, 84))
"""fsync, fdatasync and sync_file_range are answered as done. A session's own files are in memory; for a shared file, they would make the
host's disk write all that it holds back, for everybody."""

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, operand."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))
    kept: "ctypes.Array[ctypes.c_char]"
    halves: list[int]
    """Addresses of the two halves of the key."""


def instructions(machine: str) -> list[Instruction]:
    """Return the filter for a machine as `os.uname` names it. Raises OSError if the tables do not contain it."""
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"there is no system call filter for {machine}")
    architecture, column = _ARCHITECTURES[machine]
    return list(_assemble(architecture, column))


def _assemble(architecture: int, column: int) -> Iterator[Instruction]:
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _KILL_PROCESS
    yield _LOAD, 0, 0, _NUMBER
    yield _AT_LEAST, 0, 1, _X32
    yield _RETURN, 0, 0, _KILL_PROCESS
    yield _AT_LEAST, 0, 1, _NEWER
    yield _RETURN, 0, 0, _ERRNO | errno.ENOSYS
    for refused in _REFUSED:
        if refused[column] != "-":
            yield _EQUAL, 0, 1, int(refused[column])
            yield _RETURN, 0, 0, _REFUSE
    for numbers in _UNREADABLE:
        yield _EQUAL, 0, 1, numbers[column]
        yield _RETURN, 0, 0, _ERRNO | errno.ENOSYS
    yield _EQUAL, 0, 13, _CLONE[column]  # on another number, jump over all of it
    yield _LOAD, 0, 0, _FIRST
    yield _ANY_BIT, 10, 0, _NEW_NAMESPACES
    yield _ANY_BIT, 4, 0, _CLONE_PARENT
    yield _ANY_BIT, 1, 0, _CLONE_THREAD
    yield _ANY_BIT, 1, 0, _CLONE_FILES
    yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _REFUSE
    yield from _with_key()
    yield _EQUAL, 0, 9, _SETNS[column]
    yield _LOAD, 0, 0, _SECOND
    yield _EQUAL, 1, 0, _STEPS[0]
    yield _EQUAL, 0, 5, _STEPS[1]
    yield from _with_key()
    for numbers in _SYNCS:
        yield _EQUAL, 0, 1, numbers[column]
        yield _RETURN, 0, 0, _ERRNO  # 0 is no error
    for calls, branch in _BY_ARGUMENT:
        if (number := calls[column]) is not None:
            answers = _answers(branch, column)
            yield _EQUAL, 0, len(answers), number
            yield from answers
    yield _EQUAL, 0, 8, _PRLIMIT[column]  # on another number, jump over all that follows
    yield _LOAD, 0, 0, _SECOND
    yield _EQUAL, 0, 5, _RLIMIT_CORE
    yield _LOAD, 0, 0, _THIRD  # the new limit, a pointer of two halves; without one it is a question
    yield _EQUAL, 0, 2, 0
    yield _LOAD, 0, 0, _THIRD + 4
    yield _EQUAL, 1, 0, 0
    yield _RETURN, 0, 0, _REFUSE
    yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _ALLOW


def _with_key() -> Iterator[Instruction]:
    """Yield six instructions that allow a call whose sixth argument is the key, and refuse any other. The kernel ignores that argument."""
    yield _LOAD, 0, 0, _SIXTH
    yield _EQUAL, 0, 3, _KEY[0]
    yield _LOAD, 0, 0, _SIXTH + 4
    yield _EQUAL, 0, 1, _KEY[1]
    yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _REFUSE


def _answers(branch: _Branch, column: int) -> list[Instruction]:
    """Return instructions that answer a call by one of its arguments."""
    code: list[Instruction] = [(_LOAD, 0, 0, branch.argument)]
    if branch.mask != 0xFFFFFFFF:
        code.append((_AND, 0, 0, branch.mask))
    for comparison, operand, answer in branch.tests:
        passed = _answer(answer, column)
        code.append((comparison, 0, len(passed), operand if isinstance(operand, int) else operand[column]))
        code += passed
    return code + _answer(branch.other, column)


def _answer(answer: int | _Branch, column: int) -> list[Instruction]:
    return _answers(answer, column) if isinstance(answer, _Branch) else [(_RETURN, 0, 0, answer)]


def prepare(libc: ctypes.CDLL) -> "_Program":
    """Assemble the filter for this machine once for all children, so that none touches a page for it. Raises OSError.

    A random key is drawn directly into the filter and is nowhere else in memory, so `forget` removes it.
    """
    assembled = instructions(os.uname().machine)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in assembled)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(assembled), ctypes.cast(buffer, ctypes.c_void_p))
    program.kept = buffer  # the program itself holds its address only
    program.halves = []
    for half in _KEY:
        first, *others = (
            ctypes.addressof(buffer) + 8 * index + 4 for index, each in enumerate(assembled) if each[3] == half
        )
        if libc.getrandom(ctypes.c_void_p(first), 4, 0) != 4:
            raise OSError(ctypes.get_errno(), "getrandom")
        for other in others:
            ctypes.memmove(other, first, 4)
        program.halves.append(first)
    return program


def key(program: "_Program") -> int:
    """Return the key, for the helper that makes copies, which no session can reach."""
    low, high = (ctypes.c_uint32.from_address(address).value for address in program.halves)
    return low | high << 32


def forget(program: "_Program") -> None:
    """Overwrite the filter and its key, so that a session cannot find it."""
    ctypes.memset(program.kept, 0, len(program.kept))


def install(libc: ctypes.CDLL, program: "_Program") -> None:
    """Install the filter for this thread; no_new_privs must be set. Raises OSError."""
    if libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
