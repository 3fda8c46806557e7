"""Processes and signals: a session sees, traces and signals its own, and cannot stay when it has to go."""

import errno
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cases import attack
from repl_sessions import no_tools, raised, run, value
from syscalls import answers, host_pids

from lzero.errors import ReplDied
from lzero.repl import LocalPool, LocalRepl, users

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

START = """
import subprocess
child = subprocess.Popen([{marker!r}, "300"], executable="/bin/sleep")
while not open(f"/proc/{{child.pid}}/cmdline").read().startswith({marker!r}):
    pass
1
"""


@pytest_asyncio.fixture(loop_scope="module")
async def sibling(pool: LocalPool) -> AsyncIterator[LocalRepl]:
    repl = await pool.open((), no_tools, seed=1)
    assert await value(repl, "x = 41; x") == "41"
    yield repl
    await repl.close()


async def start(repl: LocalRepl) -> int:
    """Start a process of a session that the host can see, and return its pid on the host."""
    marker = f"attacked-{uuid.uuid4().hex}"
    assert await value(repl, START.format(marker=marker)) == "1"
    (pid,) = host_pids(marker)
    return pid


@attack(22)
async def test_proc_shows_its_own_pids_only(repl: LocalRepl, sibling: LocalRepl) -> None:
    others = [await start(sibling), os.getpid(), os.getppid()]
    assert await value(repl, "import os\n[name for name in os.listdir('/proc') if name.isdigit()]") == "['2']"
    places = [
        f"/proc/{pid}/{name}" for pid in others for name in ("environ", "cmdline", "maps", "mem", "root", "task", "fd")
    ]
    assert all(os.path.lexists(place) for place in places)
    assert await value(repl, f"[place for place in {places!r} if os.path.lexists(place)]") == "[]"
    # also those that no listing names
    assert await value(repl, f"[n for n in range({max(*others, 50_000)}) if os.path.exists(f'/proc/{{n}}')]") == "[2]"


@attack(22)
async def test_proc_names_neither_the_host_nor_its_kernel(repl: LocalRepl) -> None:
    assert await value(repl, "import os\nopen('/proc/sys/kernel/hostname').read(), os.uname().nodename") == (
        "('repl\\n', 'repl')"
    )
    assert await raised(repl, "open('/proc/kcore', 'rb')") in ("PermissionError", "FileNotFoundError")
    addresses = "try: seen = {line.split()[0].strip('0') for line in open('/proc/kallsyms')}\n"
    assert await value(repl, f"{addresses}except OSError: seen = {{''}}\nseen") == "{''}"


TRACE = """
child = subprocess.Popen(["sleep", "60"])
class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
stack = next(line for line in open(f"/proc/{child.pid}/maps") if "[stack]" in line)
buffer = ctypes.create_string_buffer(8)
ours = Vector(ctypes.addressof(buffer), 8)
theirs = Vector(int(stack.split("-")[0], 16), 8)
number = os.pidfd_open(child.pid)
found = [
    call("process_vm_readv", child.pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0),
    call("process_vm_writev", child.pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0),
    call("syscall", 438, number, 0, 0),  # pidfd_getfd
    call("ptrace", 0x4206, child.pid, None, None),  # PTRACE_SEIZE
]
child.kill()
child.wait()
found
"""


@attack(23)
async def test_not_even_its_own_children_can_be_traced(repl: LocalRepl, open_repl: LocalRepl) -> None:
    assert await answers(open_repl, TRACE) == [0, 0, 0, 0]
    assert await answers(repl, TRACE) == [errno.EPERM] * 4


@attack(23)
async def test_the_memory_of_others_has_no_name(repl: LocalRepl, open_repl: LocalRepl, sibling: LocalRepl) -> None:
    pids = [await start(sibling), os.getpid()]
    trace = f"[call('ptrace', 0x4206, pid, None, None) for pid in {pids}]"
    read = f"[call('process_vm_readv', pid, None, 0, None, 0, 0) for pid in {pids}]"
    open_ = f"[attempt(os.pidfd_open, pid) for pid in {pids}]"
    assert await answers(open_repl, f"{trace} + {open_}") == [errno.ESRCH] * 4  # the first line, before the filter
    assert await answers(repl, f"{trace} + {read}") == [errno.EPERM] * 4
    assert await answers(repl, open_) == [errno.ESRCH] * 2


@attack(24)
async def test_signals_to_everybody_reach_its_own_only(pool: LocalPool, repl: LocalRepl, sibling: LocalRepl) -> None:
    pid, zygotes = await start(sibling), pool.stats()["zygotes"]
    assert await value(repl, START.format(marker="own")) == "1"
    everybody = """
import os, signal
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGSTOP, signal.SIGINT, signal.SIGKILL):
    os.kill(-1, number)  # everybody but oneself
child.wait() < 0
"""
    assert await value(repl, everybody) == "True"
    execution = await run(repl, "os.kill(0, signal.SIGTERM)")  # the process group, oneself included
    assert (execution.status, execution.reason) == ("killed", "exit: the session was killed by SIGTERM")
    assert await value(sibling, "x, child.poll()") == "(41, None)"
    state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    assert state == "S"
    another = await pool.open((), no_tools, seed=0)  # the zygote lives
    await another.close()
    assert pool.stats()["zygotes"] == zygotes


@attack(24)
async def test_others_cannot_be_signalled_by_number(repl: LocalRepl, sibling: LocalRepl) -> None:
    pids = [await start(sibling), os.getpid()]
    signals = f"[attempt(os.kill, pid, 0) for pid in {pids}] + [call('tgkill', pid, pid, 0) for pid in {pids}]"
    assert await answers(repl, signals) == [errno.ESRCH] * 4
    owners = f"import fcntl, socket\na, b = socket.socketpair()\n[attempt(fcntl.fcntl, a, fcntl.F_SETOWN, n) for n in {pids}]"
    assert await answers(repl, owners) == [errno.ESRCH] * 2


@attack(24)
async def test_the_process_behind_the_connection_cannot_be_signalled(repl: LocalRepl) -> None:
    code = """
import errno, socket, struct
connection = socket.socket(fileno=os.dup(3))
pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
try:
    found = call("syscall", 424, connection.getsockopt(socket.SOL_SOCKET, 77), 0, None, 0)  # SO_PEERPIDFD, pidfd_send_signal
except OSError:
    found = errno.EINVAL  # a kernel that hands out no such descriptor
[pid, found]
"""
    assert await answers(repl, code) == [0, errno.EINVAL]


@attack(24)
async def test_the_priority_of_others_stays(repl: LocalRepl, sibling: LocalRepl) -> None:
    pid = await start(sibling)
    priority = "import os\nos.getpriority(os.PRIO_PROCESS, 0)"
    before = await value(sibling, priority)
    lower = f"""
os.setpriority(os.PRIO_PGRP, 0, 19)
[attempt(os.setpriority, os.PRIO_PROCESS, {pid}, 19), attempt(os.setpriority, os.PRIO_USER, 0, 19)]
"""
    # Where it has no user of its own, its init, which it may not touch, is of its user too.
    assert await answers(repl, lower) == [errno.ESRCH, 0 if users.available() else errno.EPERM]
    assert await value(sibling, priority) == before
    assert str(os.getpriority(os.PRIO_PROCESS, pid)) == before


@attack(25)
async def test_a_session_cannot_kill_its_init_from_within(repl: LocalRepl) -> None:
    code = """
import os, signal, subprocess, sys
from contextlib import suppress
for number in signal.valid_signals():
    with suppress(PermissionError):  # where the init is another user
        os.kill(1, number)
    subprocess.run([sys.executable, "-c", f"import os; os.kill(1, {number})"], stderr=subprocess.DEVNULL)
"""
    assert (await run(repl, code)).status == "ok"
    assert await value(repl, "os.posix_spawnp('true', ['true'], {})") == await value(repl, "os.wait()[0]")


@attack(23)
async def test_a_session_cannot_look_into_its_init(repl: LocalRepl, open_repl: LocalRepl) -> None:
    """It is the same user, but of the zygote's user namespace."""
    places = "('mem', 'environ', 'maps', 'root', 'cwd', 'fd', 'ns/user', 'status', 'net/unix', 'mountinfo')"
    assert (
        await value(repl, f"import os\n[os.path.lexists(f'/proc/1/{{name}}') for name in {places}].count(True)") == "0"
    )
    trace = "[call('ptrace', 0x4206, 1, None, None), call('process_vm_readv', 1, None, 0, None, 0, 0)]"
    assert (await answers(open_repl, trace))[0] == errno.EPERM  # without the filter
    assert await answers(repl, trace) == [errno.EPERM] * 2


@attack(25)
async def test_an_init_that_is_made_to_end_ends_its_own_session_only(pool: LocalPool, sibling: LocalRepl) -> None:
    repl = await pool.open((), no_tools, seed=0)
    # Limits of a process may be lowered by the same user; this one ends it, and the namespace with it.
    code = "import resource, time\nresource.prlimit(1, resource.RLIMIT_CPU, (0, 0))\nresource.prlimit(1, resource.RLIMIT_AS, (0, 0))"
    await run(repl, code)
    execution = await run(repl, "import os\nos.kill(os.getpid(), 9)")
    assert (execution.status, execution.reason) == ("killed", "exit: the session was killed by SIGKILL")
    await repl.close()
    assert await value(sibling, "x") == "41"


@attack(25)
async def test_an_init_that_ends_is_reported_and_takes_everything_along(pool: LocalPool, sibling: LocalRepl) -> None:
    for way, reason in (("os._exit(0)", "exited with code 0"), ("ctypes.string_at(0)", "killed by SIGSEGV")):
        repl = await pool.open((), no_tools, seed=0)
        pid = await start(repl)
        execution = await run(repl, f"import ctypes, os\n{way}")
        assert execution.status == "killed"
        assert reason in execution.reason
        assert not os.path.exists(f"/proc/{pid}")
        with pytest.raises(ReplDied, match=reason):
            await run(repl, "1")
        await repl.close()
    assert await value(sibling, "x") == "41"


UNDO = """
import ctypes, os, signal, subprocess
libc = ctypes.CDLL(None, use_errno=True)
open("/proc/self/oom_score_adj", "w").write("1000")
made = [libc.prctl(option, argument, 0, 0, 0) for option, argument in ((1, 0), (36, 1), (4, 0), (15, b"bwrap"))]
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, signal.SIG_IGN)
daemon = "import os, sys; os.fork() and os._exit(0); os.setsid(); os.execv('/bin/sleep', [sys.argv[1], '300'])"
"""
"""No death signal, reaper of its own, not dumpable, another name, deaf to every signal that can be ignored."""


@attack(26)
async def test_what_it_undoes_keeps_nobody_alive() -> None:
    marker = f"daemon-{uuid.uuid4().hex}"
    daemon = f"subprocess.run([sys.executable, '-c', daemon, {marker!r}]).returncode"
    there = (
        f"any(open(f'/proc/{{n}}/cmdline').read().startswith({marker!r}) for n in os.listdir('/proc') if n.isdigit())"
    )
    pool = LocalPool()
    async with pool:
        repl, kept = [await pool.open((), no_tools, seed=number) for number in range(2)]
        for each in (repl, kept):
            assert await value(each, f"{UNDO}import sys\nmade, {daemon}") == "([0, 0, 0, 0], 0)"
            assert (await run(each, f"while not {there}: pass")).status == "ok"
        assert len(host_pids(marker)) == 2
        execution = await repl.run("while True: pass", deadline_s=0.2)
        assert (execution.status, len(host_pids(marker))) == ("killed", 1)
        await repl.close()
    assert host_pids(marker) == []  # `kept` was never closed


INJECT = """
code = '''
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
master, slave = os.openpty()
libc.ioctl(slave, ctypes.c_ulong(0x540E), 0)  # TIOCSCTTY
found = []
for request in (0x5412, 0x100005412, 0x541C):  # TIOCSTI; with a bit that the kernel never looks at; TIOCLINUX
    ctypes.set_errno(0)
    found.append(0 if libc.ioctl(slave, ctypes.c_ulong(request), b"x") >= 0 else ctypes.get_errno())
print(found)
'''
done = subprocess.run([sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True)
__import__("json").loads(done.stdout)
"""


@attack(27)
async def test_words_cannot_be_put_into_a_terminal(repl: LocalRepl, open_repl: LocalRepl) -> None:
    typed, disguised, _ = await answers(open_repl, INJECT)
    assert typed == disguised
    assert typed in (0, errno.EIO)  # EIO: the kernel was told to forget it (dev.tty.legacy_tiocsti)
    assert await answers(repl, INJECT) == [errno.EPERM] * 3


@attack(27)
async def test_there_is_no_terminal_and_none_is_shared(repl: LocalRepl, sibling: LocalRepl) -> None:
    assert await answers(
        repl, "[attempt(os.open, '/dev/tty', os.O_RDWR), attempt(os.open, '/dev/console', os.O_RDWR)]"
    ) == [
        errno.ENXIO,
        errno.ENOENT,
    ]
    assert await value(repl, "[os.isatty(n) for n in range(3)], os.getpgid(0), os.getsid(0)") == (
        "([False, False, False], 2, 2)"
    )
    assert await value(repl, "master, slave = os.openpty()\nos.ttyname(slave)") == "'/dev/pts/0'"
    assert await value(sibling, "import os\nos.listdir('/dev/pts')") == "['ptmx']"
    assert await answers(repl, "[attempt(os.setsid), attempt(os.setpgid, 0, 0)]") == [errno.EPERM] * 2
    assert await value(repl, "os.close(master)\nos.close(slave)\n1 + 1") == "2"


@attack(28)
async def test_no_core_is_dumped(repl: LocalRepl, open_repl: LocalRepl) -> None:
    crash = """
import os, resource, subprocess, sys
child = os.fork()
if child == 0: os.abort()
_, status = os.waitpid(child, 0)
os.WIFSIGNALED(status), os.WCOREDUMP(status), os.listdir(), resource.getrlimit(resource.RLIMIT_CORE)
"""
    assert await value(repl, crash) == "(True, False, [], (1, 1))"
    # A program that takes core dumps is asked under every other limit, and 0 is one: this one must stay as it is.
    lift = """
found = []
for numbers in ((0, 0), (0, 1), (9, 9)):
    limit = (ctypes.c_uint64 * 2)(*numbers)
    found += [call("setrlimit", 4, limit), call("prlimit64", 0, 4, limit, None)]
found + [call("prlimit64", 0, 4, None, limit), call("setrlimit", 7, (ctypes.c_uint64 * 2)(99, 99))]
"""
    assert (await answers(open_repl, lift))[:2] == [0, 0]
    assert await answers(repl, lift) == [errno.EPERM] * 6 + [0, 0]
