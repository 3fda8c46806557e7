"""Memory that the resident sets of a session's processes do not show, where no control group bounds it."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from cases import attack
from repl_sessions import no_tools, value
from syscalls import answers

from lzero.config import ReplConfig
from lzero.repl import LocalPool, LocalRepl, processes, watchdog
from lzero.repl.jail import Limits
from lzero.types import Execution

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]
X86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the test are those of x86-64")
LIMITS = Limits(memory_bytes=96 << 20)
WAIT = "\nimport time\ntime.sleep(60)"
HOPPERS = """
import mmap, os
def fork():
    while True:
        try:
            return os.fork()
        except BlockingIOError:  # as many as there may be have not ended yet
            pass
def hop(mb):
    if fork():
        return
    os.setsid()
    held = mmap.mmap(-1, mb << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, mb << 20, mmap.PAGESIZE):
        held[at] = 1
        if at % (1 << 20) == 0 and fork():
            os._exit(0)
    while True:
        if fork():
            os._exit(0)
for _ in range(6):
    hop(40)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LocalPool]:
    async with LocalPool(ReplConfig(cgroups="off"), limits=LIMITS) as pool:
        yield pool


async def in_one_of(pool: LocalPool, code: str, *, beside: str = "6 * 7") -> Execution:
    """Run a cell in a new REPL, while another one works."""
    repl, sibling = [await pool.open((), no_tools, seed=number) for number in range(2)]
    execution = await repl.run(code, deadline_s=50.0)
    assert await value(sibling, beside) == "42"
    for each in (repl, sibling):
        await each.close()
    return execution


def is_killed_for_memory(execution: Execution) -> bool:
    return (execution.status, execution.reason.partition(":")[0]) == ("killed", "memory")


@attack(73)
async def test_processes_that_come_and_go_are_counted(pool: LocalPool) -> None:
    assert is_killed_for_memory(await in_one_of(pool, HOPPERS + WAIT))


@attack(73)
async def test_a_first_thread_that_has_ended_hides_no_memory(pool: LocalPool) -> None:
    code = """
import ctypes, os, threading
def hold():
    held = bytearray(b"x") * (60 << 20)
    time.sleep(60)
import time
for _ in range(2):
    if os.fork() == 0:
        threading.Thread(target=hold).start()
        ctypes.CDLL(None).pthread_exit(None)
"""
    assert is_killed_for_memory(await in_one_of(pool, code + WAIT))


RELAY = """
import _thread, ctypes
held = b"x" * (60 << 20)
def relay():
    _thread.start_new_thread(relay, ())
relay()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@attack(73)
async def test_threads_that_start_each_other_and_end_hide_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", RELAY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while "VmRSS" in Path(f"/proc/{process.pid}/status").read_text():  # of the first thread
            await asyncio.sleep(0)
        seen = 0
        for _ in range(500):
            with suppress(processes.Unseen):
                assert processes.resident_bytes([process.pid]) > 60 << 20
                seen += 1
        assert seen
        with processes.standstill([process.pid]) as pids:
            assert processes.resident_bytes(pids, still=True) > 60 << 20
        bounds = watchdog.Bounds(memory_bytes=50 << 20, cpu_s=1e9, lifetime_s=1e9)
        reasons = {watchdog.objection([process.pid], bounds).partition(" MB together")[1] for _ in range(20)}
        assert reasons == {" MB together"}
        process.kill()


async def test_programs_go_on_however_often_they_are_stopped(pool: LocalPool) -> None:
    code = """
import multiprocessing, subprocess
def double(number): return 2 * number
codes = {subprocess.run(["sh", "-c", "sleep 0.002 | cat; true"]).returncode for _ in range(20)}
with multiprocessing.get_context("fork").Pool(4) as workers:
    doubled = workers.map(double, range(100))
codes == {0} and doubled == [2 * number for number in range(100)]
"""
    repl = await pool.open((), no_tools, seed=0)
    cell = asyncio.create_task(value(repl, code))
    stops = 0
    while not cell.done():
        with processes.standstill(repl.host_pids):
            stops += 1
        await asyncio.sleep(0.005)
    assert (await cell, stops > 3) == ("True", True)
    await repl.close()


@attack(73)
async def test_processes_that_come_and_go_stand_still_as_a_whole_and_go_on(
    pool: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_ROUNDS", 10_000)  # the second half of the rounds, on a busy machine, promises less
    repl = await pool.open((), no_tools, seed=0)
    cell = asyncio.create_task(repl.run(HOPPERS.replace("hop(40)", "hop(1)") + WAIT, deadline_s=50.0))
    async with asyncio.timeout(40.0):
        while len(processes.tree(repl.host_pids)) < 5:
            await asyncio.sleep(0)
        for _ in range(3):
            with processes.standstill(repl.host_pids) as pids:
                assert len(pids) > 2
                assert set(processes.tree(repl.host_pids)) <= set(pids)
            while processes.tree(repl.host_pids) == pids:
                await asyncio.sleep(0)
    await repl.close()
    assert (await cell).status == "killed"


@attack(73)
async def test_processes_that_do_not_stand_still_end(pool: LocalPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_ROUNDS", 0)
    execution = await in_one_of(pool, HOPPERS + WAIT)
    assert execution.reason.startswith("memory: its processes start and continue each other too fast")


async def test_a_process_that_was_stopped_before_stays_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        with processes.standstill([process.pid]) as pids:
            assert pids == [process.pid]
        assert b"State:\tT" in Path(f"/proc/{process.pid}/status").read_bytes()
        process.kill()


ENDING = """
import ctypes, os, signal
new_user_and_pids = 0x10000000 | 0x20000000
assert ctypes.CDLL(None, use_errno=True).unshare(new_user_and_pids) == 0
init = os.fork()
if not init:
    signal.pause()
if not os.fork():  # in the same namespace: init cannot end before somebody has waited for it
    signal.pause()
print(init, flush=True)
input()
"""


async def test_a_process_that_is_ending_stands_still() -> None:
    """It shows no memory, is no zombie yet, and heeds no signal."""
    with subprocess.Popen([sys.executable, "-c", ENDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        init = int(process.stdout.readline())
        os.kill(init, signal.SIGKILL)
        async with asyncio.timeout(60.0):
            while "VmRSS" in (status := Path(f"/proc/{init}/status").read_text()):
                await asyncio.sleep(0)
        assert "zombie" not in status
        with processes.standstill([process.pid]) as pids:
            assert init in pids
        process.kill()


SOCKETS = """
import os, socket
held = []
def fill(end):
    end.setblocking(False)
    try:
        while True:
            end.send(bytes(1 << 16))
    except BlockingIOError:
        return end
"""


@attack(74)
@pytest.mark.parametrize(
    "code",
    [
        "held += [fill(end) for _ in range(120) for end in socket.socketpair()]",
        # Nobody has accepted these connections, and who made them has closed its end.
        """
listener = socket.socket(socket.AF_UNIX)
listener.bind("here")
listener.listen(1000)
for _ in range(200):
    caller = socket.socket(socket.AF_UNIX)
    caller.connect("here")
    fill(caller).close()
""",
        # These were sent, and nobody has received them.
        """
ends = socket.socketpair()
for _ in range(120):
    one, other = socket.socketpair()
    socket.send_fds(ends[0], [b"."], [fill(one).fileno(), fill(other).fileno()])
    one.close(), other.close()
""",
    ],
    ids=["held", "not accepted", "not received"],
)
async def test_bytes_in_sockets_are_counted(pool: LocalPool, code: str) -> None:
    execution = await in_one_of(pool, SOCKETS + code + WAIT)
    assert is_killed_for_memory(execution)
    assert "for its sockets" in execution.reason


async def test_a_server_and_its_clients_work(pool: LocalPool) -> None:
    code = """
import asyncio
async def answer(reader, writer):
    writer.write(await reader.readexactly(100_000))
    await writer.drain()
    writer.close()
async def ask():
    reader, writer = await asyncio.open_unix_connection("server")
    writer.write(bytes(100_000))
    answered = await reader.readexactly(100_000)
    writer.close()
    return len(answered)
server = await asyncio.start_unix_server(answer, "server")
sum(await asyncio.gather(*(ask() for _ in range(20))))
"""
    assert await value(await pool.open((), no_tools, seed=0), code) == "2000000"


@attack(74)
async def test_no_buffer_of_a_socket_grows(repl: LocalRepl, open_repl: LocalRepl) -> None:
    grow = "import socket\n[attempt(socket.socketpair()[0].setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)]"
    assert await answers(open_repl, grow) == [0]
    assert await answers(repl, grow) == [errno.EPERM]


SHARED = """
import mmap, os
[attempt(mmap.mmap, -1, 1 << 20), attempt(mmap.mmap, -1, 1 << 20, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x4000)]
"""


@attack(75)
async def test_shared_memory_of_no_file_cannot_be_had(repl: LocalRepl, open_repl: LocalRepl) -> None:
    """Its pages outlive every mapping of them but one, and are in no resident set then."""
    assert await answers(open_repl, SHARED) == [0, 0]
    assert await answers(repl, SHARED) == [errno.EPERM] * 2
    zeros = "import mmap\n[attempt(mmap.mmap, os.open('/dev/zero', os.O_RDWR), 1 << 20)]"
    for each in (repl, open_repl):
        assert await answers(each, zeros) == [errno.ENODEV]


async def test_processes_share_memory_in_files(repl: LocalRepl) -> None:
    code = """
import mmap, multiprocessing, os
from multiprocessing.shared_memory import SharedMemory
shared = SharedMemory(create=True, size=4096)
counter = multiprocessing.Value("i", 0)
array = multiprocessing.Array("d", 1000)
def count():
    with counter.get_lock():
        counter.value += 1
    array[7], shared.buf[0] = 7.0, 7
workers = [multiprocessing.get_context("fork").Process(target=count) for _ in range(3)]
for worker in workers: worker.start()
for worker in workers: worker.join()
found = counter.value, array[7], shared.buf[0]
shared.close(), shared.unlink()
private = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE)
private[:5] = b"bytes"
found, private[:5], os.system("dd if=/dev/zero of=zeros bs=1M count=1 2> /dev/null"), os.path.getsize("zeros")
"""
    assert await value(repl, code) == "((3, 7.0, 7), b'bytes', 0, 1048576)"


PINNED = """
import mmap
read, write = os.pipe()
other_read, other_write = os.pipe()
file = os.open("pages", os.O_CREAT | os.O_RDWR)
os.write(file, bytes(8192)), os.write(write, b"here")
class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
buffer = ctypes.create_string_buffer(4096)
[
    call("vmsplice", write, ctypes.byref(Vector(ctypes.addressof(buffer), 1)), 1, 0),
    call("tee", read, other_write, 1, 0),
    call("splice", read, None, other_write, None, 1, 0),
    attempt(os.sendfile, write, file, 0, 1),
]
"""


@attack(76)
async def test_no_page_is_pinned_in_a_pipe(repl: LocalRepl, open_repl: LocalRepl) -> None:
    assert await answers(open_repl, PINNED) == [0] * 4
    assert await answers(repl, PINNED) == [errno.EPERM] * 4


async def test_what_would_send_files_in_the_kernel_copies_them(repl: LocalRepl) -> None:
    code = """
import asyncio, os, shutil, socket, subprocess
with open("one", "wb") as file: file.write(os.urandom(300_000))
os.chmod("one", 0o640)
shutil.copy2("one", "two")
copies = "cp -a one three; cat one > four; cat one | tee five > six; tar cf - one | tar xf - -C /tmp; mv /tmp/one seven"
subprocess.run(copies, shell=True, check=True)
near, far = socket.socketpair()
async def send():
    near.setblocking(False), far.setblocking(False)
    loop = asyncio.get_running_loop()
    with open("one", "rb") as file:
        sending = asyncio.create_task(loop.sock_sendfile(near, file))
        received = b""
        while len(received) < 300_000: received += await loop.sock_recv(far, 1 << 16)
        assert await sending == 300_000
    return received
contents = {await send(), *(open(name, "rb").read() for name in "one two three four five six seven".split())}
len(contents), oct(os.stat("two").st_mode), oct(os.stat("three").st_mode)
"""
    assert await value(repl, code) == "(1, '0o100640', '0o100640')"


KERNELS_OWN = """
import struct
open("file", "w").close()
entries = [(1, 6, -1), *[(2, 6, 1000)] * 8000, (4, 6, -1), (16, 6, -1), (32, 6, -1)]
access = struct.pack("I", 2) + b"".join(struct.pack("HHi", *entry) for entry in entries)
code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))
handled = ctypes.create_string_buffer(struct.pack("Q", 1))
[
    attempt(os.setxattr, "file", "system.posix_acl_access", access),
    attempt(os.setxattr, "file", "user.name", bytes(1000)),
    call("syscall", 444, handled, ctypes.c_size_t(8), 0),
    call("syscall", 317, 1, 0, program),
    call("prctl", 22, 2, program, 0, 0),
    call("prctl", 78, 1, 1 << 10, 0, 0),
]
"""


@X86_64
@attack(77)
async def test_the_kernels_own_memory_cannot_be_had(repl: LocalRepl, open_repl: LocalRepl) -> None:
    had = await answers(open_repl, KERNELS_OWN)
    assert (had[0], had[3], had[4]) == (0, 0, 0)
    assert set(had) <= {0, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # a kernel may be without the others
    assert await answers(repl, KERNELS_OWN) == [errno.EPERM] * 6
