"""Kernel interfaces: system calls that no cell needs. Without the filter they answer otherwise, which each test shows first."""

import ast
import errno

import pytest
from cases import attack
from repl_sessions import no_tools, value

from lzero.repl import LocalPool, LocalRepl

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

CALL = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    return 0 if libc.syscall(number, *arguments) >= 0 else ctypes.get_errno()
BAD = ctypes.c_void_p(1)
"""
"""A bad pointer tells: EFAULT comes from a system call that ran, EPERM from one that was filtered."""
X86_64 = pytest.mark.skipif(
    __import__("os").uname().machine != "x86_64", reason="the numbers of the test are those of x86-64"
)


async def errnos(repl: LocalRepl, *calls: str) -> list[int]:
    """Return the results of system calls: 0, or their errno."""
    found: list[int] = ast.literal_eval(await value(repl, f"{CALL}\n[{', '.join(f'call({each})' for each in calls)}]"))
    return found


@X86_64
@attack(40)
async def test_rare_system_calls_are_refused(repl: LocalRepl, open_repl: LocalRepl) -> None:
    setup = (
        "425, 1, BAD",
        "321, 0, BAD, 8",
        "298, BAD, 0, -1, -1, 0",
        "323, 0x7fffffff",
        "175, BAD, 1, BAD",
        "313, -1, BAD, 0",
    )
    assert errno.EFAULT in await errnos(open_repl, setup[0])
    assert await errnos(repl, *setup, "246, 0, 0, BAD, 0", "320, -1, -1, 0, BAD, 0") == [errno.EPERM] * 8


@X86_64
@attack(40)
async def test_calls_that_are_newer_than_the_filter_are_refused(repl: LocalRepl, open_repl: LocalRepl) -> None:
    """Linux 6.17 has file_getattr (468), which answers what an ioctl that is refused does."""
    assert await errnos(open_repl, "468, -100, BAD, BAD, 0, 0") == [errno.EINVAL]
    numbers = [*range(468, 500), 600, 1 << 20]
    assert await errnos(repl, *(f"{number}, -100, BAD, BAD, 0, 0" for number in numbers)) == [errno.ENOSYS] * len(
        numbers
    )


@X86_64
@attack(54)
async def test_what_others_do_with_shared_files_is_not_told(repl: LocalRepl, open_repl: LocalRepl) -> None:
    calls = ("253", "294, 0", "72, os.open('/usr', os.O_RDONLY), 1026, 1")  # inotify, and fcntl's F_NOTIFY
    assert await errnos(open_repl, "294, 0") == [0]
    assert await errnos(repl, *calls) == [errno.EPERM] * 3


@X86_64
@attack(41)
async def test_keyrings_are_refused(repl: LocalRepl, open_repl: LocalRepl) -> None:
    join = "250, 1, 0"  # keyctl(KEYCTL_JOIN_SESSION_KEYRING)
    assert await errnos(open_repl, join) == [0]
    assert await errnos(repl, join, "248, BAD, BAD, BAD, 1, -3", "249, BAD, BAD, BAD, -3") == [errno.EPERM] * 3


@X86_64
@attack(42)
async def test_new_and_foreign_namespaces_are_refused(repl: LocalRepl, open_repl: LocalRepl) -> None:
    async with LocalPool(without=("seccomp", "nesting")) as pool:
        nested = await pool.open((), no_tools, seed=0)
        assert await errnos(nested, "272, 0x10000000") == [0]  # unshare(CLONE_NEWUSER)
        await nested.close()
    assert await errnos(open_repl, "272, 0x10000000") == [errno.ENOSPC]  # the first line, before the filter
    flags = [f"56, {hex(flag | 17)}, 0, 0, 0, 0" for flag in (0x20000, 0x2000000, 0x10000000, 0x20000000, 0x40000000)]
    assert await errnos(repl, "272, 0x10000000", "308, -1, 0", *flags) == [errno.EPERM] * 7
    # what a copy is made to do while it is stopped takes a key
    steps = [f"308, open('/proc/self/ns/user').fileno(), {flags}" for flags in ("0x10000000", "0x7c020000")]
    assert await errnos(repl, *steps) == [errno.EPERM] * 2
    assert await errnos(repl, "435, BAD, 88") == [errno.ENOSYS]  # the C library falls back to clone
    assert await value(repl, "import subprocess\nsubprocess.run(['true']).returncode") == "0"


@X86_64
@attack(43)
async def test_mounts_are_refused(repl: LocalRepl, open_repl: LocalRepl) -> None:
    assert await errnos(open_repl, "165, BAD, BAD, BAD, 0, BAD") != [0]  # no capability: the first line
    calls = (
        "165, BAD, BAD, BAD, 0, BAD",
        "166, BAD, 0",
        "155, BAD, BAD",
        "161, BAD",
        "430, BAD, 0",
        "429, -1, BAD, -1, BAD, 0",
    )
    more = ("428, -1, BAD, 0", "442, -1, BAD, 0, BAD, 32", "431, -1, 0, BAD, BAD, 0", "432, -1, 0, 0")
    assert await errnos(repl, *calls, *more) == [errno.EPERM] * 10


@attack(44)
async def test_control_groups_are_out_of_reach(repl: LocalRepl) -> None:
    assert await value(repl, "import os\n[os.path.exists(p) for p in ('/sys/fs/cgroup', '/sys')]") == "[False, False]"
    assert await value(repl, "[line for line in open('/proc/mounts') if 'cgroup' in line]") == "[]"


@X86_64
@attack(45)
async def test_clock_name_and_power_of_the_host_are_out_of_reach(repl: LocalRepl) -> None:
    calls = (
        "164, BAD, BAD",
        "227, 0, BAD",
        "159, BAD",
        "305, 0, BAD",
        "170, BAD, 1",
        "171, BAD, 1",
        "169, 0xfee1dead, 672274793, 0, 0",
    )
    assert await errnos(repl, *calls, "167, BAD, 0", "168, BAD", "103, 0, 0, 0") == [errno.EPERM] * 10


@X86_64
@attack(46)
async def test_other_abis_end_the_process(repl: LocalRepl, open_repl: LocalRepl) -> None:
    child = """
import subprocess, sys
code = "import ctypes; print(ctypes.CDLL(None).syscall(0x40000000 + 39))"  # getpid, as x32 numbers it
subprocess.run([sys.executable, "-c", code]).returncode
"""
    assert int(await value(open_repl, child)) == 0
    assert int(await value(repl, child)) == -31  # SIGSYS
    legacy = """
import ctypes, mmap, subprocess, sys
code = '''
import ctypes, mmap
page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE, prot=7)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
print(ctypes.CFUNCTYPE(ctypes.c_long)(address)() > 0)
'''
subprocess.run([sys.executable, "-c", code]).returncode
"""
    assert int(await value(repl, legacy)) in (-31, -11)  # SIGSYS; SIGSEGV on a kernel without the ABI
    assert await errnos(repl, "135, 0xffffffff", "135, 0", "135, 0x0040000") == [0, 0, errno.EPERM]


@attack(47)
async def test_rare_socket_families_are_refused(repl: LocalRepl, open_repl: LocalRepl) -> None:
    code = """
import socket
def attempt(family, kind):
    try:
        socket.socket(family, kind).close()
        return 0
    except OSError as error:
        return error.errno
[attempt(family, kind) for family, kind in ((2, 1), (10, 1), (16, 3), (17, 3), (38, 5), (40, 1), (2, 3))]
"""
    assert 0 in ast.literal_eval(await value(open_repl, code))
    assert await value(repl, code) == str([errno.EAFNOSUPPORT] * 7)
    assert await value(repl, "a, b = socket.socketpair(); a.send(b'x'); b.recv(1)") == "b'x'"
