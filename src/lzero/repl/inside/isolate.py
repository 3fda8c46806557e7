"""Isolate a forked child before it runs any cell. Copies use some of the same steps.

The zygote is root of a user namespace without rights outside, so a child may make its mounts first and only then enter another user
namespace. That one owns nothing: not the mounts, the pids or the network. Then the child can never go back.
"""

import ctypes
import os
import resource
import signal
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import seccomp

HOME = "/workspace"
UID = 1000

NEWUSER, NEWPID = 0x10000000, 0x20000000
_NEWNS, _NEWUTS, _NEWIPC, _NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x40000000
WORLD = _NEWNS | _NEWUTS | _NEWIPC | NEWPID | _NEWNET
"""All kinds of namespaces that a user namespace can own; a REPL has its own of each."""
_CLONE, _CLONE_PARENT = 56, 0x8000
"""A system call of x86-64, and its flag."""
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
_CAP_KILL = 5
# Made before the fork: every page that a child touches first costs it a copy.
_CAPABILITY_HEADER = (ctypes.c_uint32 * 2)(0x20080522, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
"""Devices that are the host's own files in /dev."""
_COVERED_FILES = tuple(
    filter(os.path.exists, (f"/proc/{name}" for name in ("cmdline", "bootconfig", "keys", "key-users", "locks")))
)
"""Files that are shown empty: the kernel's command line and its boot configuration may hold secrets of the machine. The keys are
those of the user, who may be lzero's own. While anybody reads /proc/locks, nobody on the machine can lock or unlock a file."""
_COVERED_DIRECTORIES = tuple(filter(os.path.isdir, ("/proc/pressure", "/proc/fs")))
"""Directories that are shown empty. A process that writes to a file of /proc/pressure makes the kernel watch the load of the whole machine,
and the kernel limits no number of such watches. Files of /proc/fs show where a disk of the host has free space."""
_SAMPLE_SETTING = "/proc/sys/fs/file-max"
"""A setting of the kernel. All settings are the host's root's, so a process that may write this one may write the others, too."""
_NAMESPACES = "/proc/sys/user"
"""Settings of user namespaces, which the kernel protects itself."""
_TERMINALS = 16
"""The most pseudoterminals of one REPL; the kernel has a few thousand for all."""
_PENDING_SIGNALS = 64
"""The most queued signals and timers (timer_create) of one REPL; the kernel has about as many for each user as it has threads."""
_NO_CORE = 1
"""Limit on core dumps. If a program on the host takes core dumps, 1 prevents that; 0 would let it run. core(5)."""
_LAST_CAPABILITY = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))

_INIT = ("/usr/bin/env", "--ignore-signal=CHLD", "sleep", "infinity")
"""The first process of a REPL's pid namespace. It ignores SIGCHLD, so the kernel reaps the orphans of the session's processes. When it
ends, the kernel ends all other processes. It is another program, because a fork of the zygote would keep 1.5 MB: every page that the zygote
writes to later. It stays in the zygote's user namespace, so the session, which is the same user, has no right to it. From inside, an init
receives only signals that it has a handler for, and it has none."""

_libc = ctypes.CDLL(None, use_errno=True)
_PYTHON = ctypes.PyDLL(None, use_errno=True)
"""The same library, without releasing the interpreter's lock, because a child returns from a call into the interpreter."""
_FILTER = seccomp.prepare(_libc)


@dataclass(frozen=True)
class Limits:
    """The limits of one REPL."""

    memory_bytes: int
    """Memory of all processes together, as the host adds them up; also the address space that one process may add to its initial one."""
    disk_bytes: int
    """Size of the private workspace, and of the largest file."""
    files: int
    processes: int
    """Processes and threads together."""
    open_files: int


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def keep_devices() -> None:
    """Make the mounts of the devices read-only, once, in the zygote. Raises OSError.

    They work as before, but no session can change their times, which the host and all other sessions see. /dev/full replaces /dev/zero: it
    reads the same, but cannot be mapped as shared memory, which would be that of a file without a name.
    """
    for name in _DEVICES:
        _mount("none", f"/dev/{name}", "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID, "")
    _mount("/dev/full", "/dev/zero", "", _MS_BIND, "")


def fork(own_pid_namespace: int) -> tuple[int, int]:
    """Fork the zygote into a new pid namespace, next to an init. Return (init, child) pids to the caller, (0, 0) to the child.

    `own_pid_namespace`: a descriptor of the caller's namespace, to which later forks return. Raises OSError, and leaves no process.
    """
    _call("unshare", NEWPID)
    init, child = 0, -1
    try:
        init = os.posix_spawn(_INIT[0], _INIT, {}, setsid=True)
        child = os.fork()
        return (init, child) if child else (0, 0)
    finally:
        if child != 0:
            _call("setns", own_pid_namespace, NEWPID)
        if child < 0 and init:
            os.kill(init, signal.SIGKILL)
            os.waitpid(init, 0)


def num_users() -> int:
    """Return the number of users in the zygote's user namespace beside its own, one for each REPL; 0 if all REPLs share that one."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return sum(int(line.split()[2]) for line in file) - 1


def enter(limits: Limits, user: int, without: Collection[str] = ()) -> None:
    """Isolate this process completely except for the filter of system calls. Raises OSError; the caller must then exit.

    `user`: the user of the zygote's user namespace to become. `without`: defences to leave out ("seccomp", "network", "nesting"), for tests
    that show what each is good for.

    The REPL gets its own network namespace, with its loopback device down, so it cannot even reach its siblings.
    """
    _call("prctl", _PR_SET_PDEATHSIG, 9, 0, 0, 0)
    os.setsid()  # kill(0, …) reaches the whole process group, whatever pid namespaces it spans
    _call("unshare", _NEWNS | _NEWIPC | _NEWUTS | (0 if "network" in without else _NEWNET))
    furnish(limits, user)
    become(user)
    enter_user_namespace(nesting="nesting" in without)
    _set_limits(limits)  # after entering it: processes and queued signals are counted per user namespace
    _drop_privileges()


def shut() -> None:
    """Install the filter of system calls, as the last step. Raises OSError; the caller must then exit."""
    seccomp.install(_libc, _FILTER)
    seccomp.forget(_FILTER)


def key() -> int:
    """Return the key that the filter requires for calls that no session may make. Not available after `shut`."""
    return seccomp.key(_FILTER)


def join(descriptor: int, kind: int) -> None:
    """Enter a namespace. Raises OSError."""
    _call("setns", descriptor, kind)


def clone_beside() -> int:
    """Fork a child whose parent is the caller's parent. Raises OSError."""
    pid: int = _PYTHON.syscall(_CLONE, ctypes.c_ulong(_CLONE_PARENT | signal.SIGCHLD), None, None, None, None)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")
    return pid


def let_enter() -> None:
    """Open the namespaces of a copy's init to processes with rights over them, from now on."""
    _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)


def become_init(limits: Limits) -> NoReturn:
    """Turn the first process of a copy's world into an init. Raises OSError.

    It shares the user namespace with its session. It keeps one capability, which is useless there, but denies the session access to it.
    """
    _set_limits(limits)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for capability in range(_LAST_CAPABILITY + 1):
        if capability != _CAP_KILL:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _call("capset", _CAPABILITY_HEADER, (ctypes.c_uint32 * 6)(*([1 << _CAP_KILL] * 3)))
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_KILL, 0, 0)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    shut()
    os.execv("/usr/bin/sleep", ("sleep", "infinity"))  # noqa: S606 - there is nothing in it for a shell


def become(user: int) -> None:
    """Become another user of this user namespace. Raises OSError."""
    os.setresuid(user, user, user)


@contextmanager
def owning(user: int) -> Iterator[None]:
    """Make files in the block belong to `user`. setfsuid(2)."""
    own = os.geteuid()
    _libc.setfsuid(user)
    try:
        yield
    finally:
        _libc.setfsuid(own)


def furnish(limits: Limits, user: int) -> None:
    """Mount a new world: a /proc with its own pids, terminals, and one private tmpfs for the workspace, /tmp and /dev/shm.

    The tmpfs belongs to `user`. The caller needs all rights over the world. Raises OSError.
    """
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE, "")
    # A session does not see processes that it may not inspect, such as its init.
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "hidepid=2")
    for place in _COVERED_FILES:
        _mount("/dev/null", place, "", _MS_BIND, "")
    for place in _COVERED_DIRECTORIES:
        _mount(HOME, place, "", _MS_BIND, "")  # still empty and read-only: the jail's own
    if os.access(_SAMPLE_SETTING, os.W_OK):
        _protect_settings()
    _mount("devpts", "/dev/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, f"mode=600,ptmxmode=666,max={_TERMINALS}")
    options = f"mode=755,size={limits.disk_bytes},nr_inodes={limits.files}"
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    for name, target, mode in (("shm", "/dev/shm", 0o1777), ("workspace", HOME, 0o755), ("tmp", "/tmp", 0o1777)):
        source = f"/tmp/{name}"
        os.mkdir(source)
        os.chmod(source, mode)
        os.chown(source, user, -1)
        _mount(source, target, "", _MS_BIND, "")
    socket.sethostname("repl")
    os.chdir(HOME)


def _protect_settings() -> None:
    """Make everything in /proc that belongs to no process read-only. Raises OSError.

    The host's root owns these files, and needs no capability to write most of them. In a user namespace, the host's root may have the uid
    of an ordinary user, so lzero does not see that it is root.
    """
    settings = [f"/proc/sys/{name}" for name in os.listdir("/proc/sys")]
    for place in (*(f"/proc/{name}" for name in os.listdir("/proc") if not name.isdigit()), *settings):
        if os.path.islink(place) or place in ("/proc/sys", _NAMESPACES, *_COVERED_FILES, *_COVERED_DIRECTORIES):
            continue
        if os.stat(place).st_mode & 0o004:
            _mount(place, place, "", _MS_BIND, "")
            flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
            _mount("none", place, "", flags, "")
        else:
            _mount("/dev/null", place, "", _MS_BIND, "")


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind or source} on {target}: {os.strerror(number)}")


def enter_user_namespace(others: int = 0, *, nesting: bool = False) -> None:
    """Enter a new user namespace, and the `others` that it owns. `nesting`: allow further ones inside it."""
    owner, group = os.geteuid(), os.getegid()
    _call("unshare", NEWUSER | others)
    _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)  # its files in /proc are its own, whichever user it has become
    for file, text in (
        ("uid_map", f"{UID} {owner} 1"),
        ("setgroups", "deny"),
        ("gid_map", f"{UID} {group} 1"),
    ):
        _write(f"/proc/self/{file}", text)
    if not nesting:
        allow_user_namespaces(0)


def allow_user_namespaces(number: int) -> None:
    """Set the maximum number of user namespaces below the caller's own, which it needs rights over."""
    _write("/proc/sys/user/max_user_namespaces", str(number))


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _address_space() -> int:
    """Return the bytes of address space of this process, most of them the zygote's."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _set_limits(limits: Limits) -> None:
    for kind, value in (
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.disk_bytes),
        (resource.RLIMIT_AS, _address_space() + limits.memory_bytes),
        (resource.RLIMIT_CORE, _NO_CORE),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_SIGPENDING, _PENDING_SIGNALS),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_RTPRIO, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _drop_privileges() -> None:
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _call("capset", _CAPABILITY_HEADER, _NO_CAPABILITIES)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Dropping capabilities clears the death signal and the dumpable flag (which owns /proc/self).
    _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)
    _call("prctl", _PR_SET_PDEATHSIG, 9, 0, 0, 0)
