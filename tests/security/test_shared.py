"""Resources that the kernel counts per user or for the whole machine, and those that all sessions share.

No session may use them up, mark them, or delay others with them. The whole file runs once more as a user who owns the files that sessions
share.
"""

import asyncio
import errno
import os
import pwd
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cases import attack
from repl_sessions import no_tools, value
from syscalls import OWN_SETTINGS, answers

from lzero.repl import LocalPool, LocalRepl, users
from lzero.repl.unbounded import unbounded

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become, and give, other users")
X86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the test are those of x86-64")


@pytest_asyncio.fixture(loop_scope="module")
async def sibling(pool: LocalPool) -> AsyncIterator[LocalRepl]:
    repl = await pool.open((), no_tools, seed=8)
    yield repl
    await repl.close()


@pytest.mark.timeout(300)
@ROOT
async def test_all_of_this_holds_for_an_ordinary_user() -> None:
    """In a user namespace, root is an ordinary user who owns every file of root's, the kernel environment among them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", __file__]
    done = await asyncio.to_thread(
        subprocess.run,
        [
            "setpriv",
            "--regid=65534",
            "--clear-groups",
            "unshare",
            "--user",
            "--map-user=1000",
            "--map-group=1000",
            *command,
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout


QUEUE = """
import fcntl, resource, struct
def until_refused(step):
    done = 0
    while (met := step()) == 0 and done < 1_000:
        done += 1
    return done, met
information = ctypes.create_string_buffer(struct.pack("iii", 40, 0, -1), 128)
event = ctypes.create_string_buffer(struct.pack("Qii", 0, 40, 0), 64)
signal.pthread_sigmask(signal.SIG_BLOCK, {40})
def queue_a_signal():
    return call("syscall", 129, os.getpid(), 40, information)
def make_a_timer():
    return call("syscall", 222, 1, event, ctypes.byref(ctypes.c_int()))
"""


@X86_64
@attack(79)
async def test_queued_signals_and_timers_are_counted_per_session(repl: LocalRepl, sibling: LocalRepl) -> None:
    for step in ("make_a_timer", "queue_a_signal"):
        done, met = await answers(repl, f"{QUEUE}until_refused({step})")
        assert met == errno.EAGAIN
        assert done <= 64
    assert await answers(sibling, f"{QUEUE}[queue_a_signal(), make_a_timer()]") == [0, 0]
    raise_it = "resource.setrlimit(resource.RLIMIT_SIGPENDING, (1_000, 1_000))"
    assert await value(repl, f"try: {raise_it}\nexcept ValueError as error: print(error)\n'refused'") == "'refused'"


@attack(80)
async def test_no_session_takes_more_pages_for_a_pipe(repl: LocalRepl, open_repl: LocalRepl) -> None:
    grow = "import fcntl\nr, w = os.pipe()\n[attempt(fcntl.fcntl, w, 1031, 1 << 20)]"
    assert await answers(open_repl, grow) == [0]
    assert await answers(repl, grow) == [errno.EPERM]
    assert await value(repl, "import fcntl, os\nfcntl.fcntl(os.pipe()[1], 1032)") == "65536"


TAKE_ALL_PAGES = """
import fcntl, time
started, start = os.pipe()
for _ in range(10):  # each opens more than a tenth of the 1,024 pipes that a user has at full size
    if os.fork() == 0:
        kept = [os.pipe() for _ in range(115)]
        os.write(start, b".")
        time.sleep(60)
sum(len(os.read(started, 1)) for _ in range(10)), fcntl.fcntl(os.pipe()[1], fcntl.F_GETPIPE_SZ)
"""
SEND_ALL = """
import socket
pairs = [socket.socketpair() for _ in range(30)]
def until_refused(at_most):
    for done in range(at_most):
        try:
            socket.send_fds(pairs[done % 30][0], [b"x"], [0] * 10)
        except OSError as error:
            return error.errno
    return 0
"""


@attack(80)
async def test_pipes_and_descriptors_in_flight_are_the_users_of_a_session(repl: LocalRepl, sibling: LocalRepl) -> None:
    """Where root gives each REPL a user. Else they are shared, and `lzero pool probe` says so."""
    own = users.available()
    assert own is not any("descriptors in flight" in each.part for each in unbounded(groups=True))
    assert await value(repl, f"import os\n{TAKE_ALL_PAGES}") == "(10, 8192)"
    size = "import fcntl, os\nfcntl.fcntl(os.pipe()[1], fcntl.F_GETPIPE_SZ)"
    assert await value(sibling, size) == ("65536" if own else "8192")
    assert await value(repl, f"{SEND_ALL}until_refused(100)") == str(errno.ETOOMANYREFS)
    assert await value(sibling, f"{SEND_ALL}until_refused(1)") == str(0 if own else errno.ETOOMANYREFS)


@ROOT
@attack(80)
async def test_each_session_is_a_user_of_its_own(pool: LocalPool, repl: LocalRepl, sibling: LocalRepl) -> None:
    copy = await repl.fork(no_tools, seed=1)
    found = [{os.stat(f"/proc/{pid}").st_uid for pid in each.host_pids[:1]} for each in (repl, sibling, copy)]
    await copy.close()
    assert found[0] == found[2] != found[1]  # a copy is its original's
    for (user,) in found:
        with pytest.raises(KeyError):
            pwd.getpwuid(user)
    assert (
        await value(sibling, "import os\nos.getuid(), os.stat('.').st_uid, os.stat('/tmp').st_uid")
        == "(1000, 1000, 1000)"
    )


MACHINE = """
import socket, struct
one, other = socket.socketpair()
code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xffffffff))  # let everything through
program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
[
    call("syscall", 206, 1_000, ctypes.byref(ctypes.c_ulong())),  # io_setup
    attempt(one.setsockopt, socket.SOL_SOCKET, 26, program),  # SO_ATTACH_FILTER
    call("syscall", 251, 1, 0, 2 << 13),  # ioprio_set: before all others of its class
]
"""
NO_TRIAL = """[
    call("syscall", 162),  # sync
    call("syscall", 306, 0),  # syncfs
    call("syscall", 9, 0, 1 << 21, 3, 0x40022, -1, 0),  # mmap, MAP_HUGETLB
    call("syscall", 157, 62, 1, 0, 0, 0),  # prctl, PR_SCHED_CORE
    call("syscall", 16, os.openpty()[1], 0x5423, ctypes.byref(ctypes.c_int(5))),  # ioctl, TIOCSETD: loads a module
]"""
"""Not tried without the filter: it would wait for the host's disks, most machines have no huge pages, and a module stays."""


@X86_64
@attack(81)
async def test_what_is_counted_and_done_for_the_whole_machine_is_refused(repl: LocalRepl, open_repl: LocalRepl) -> None:
    assert await answers(open_repl, MACHINE) == [0] * 3
    assert await answers(repl, MACHINE) == [errno.EPERM] * 3
    assert await answers(repl, NO_TRIAL) == [errno.EPERM] * 5


DISK = """
import fcntl
shared, (r, w) = os.open("/usr/lib", os.O_RDONLY), os.pipe()
answer = ctypes.create_string_buffer(512)
[
    attempt(os.fsync, 999),
    attempt(os.fdatasync, 999),
    call("syscall", 277, 999, ctypes.c_long(0), ctypes.c_long(0), 7),  # sync_file_range
    attempt(fcntl.fcntl, w, fcntl.F_SETFL, os.O_DIRECT),
    attempt(os.open, "/opt/environment/pyvenv.cfg", os.O_DIRECT),
    call("syscall", 437, -100, b"/usr", ctypes.create_string_buffer(24), 24),  # openat2
    *(call("ioctl", shared, ctypes.c_ulong(kind), answer) for kind in (0xc0c0583b, 0xc020660b, 0x80111500, 0x6612)),
    *(call("ioctl", shared, ctypes.c_ulong(kind), answer) for kind in (0x9408, 0xc0189436, 0xf50f, 0x6f01)),
]
"""
"""Without the filter, the first three find no file of this number. The last eight are FS_IOC_GETFSMAP, FS_IOC_FIEMAP, FS_IOC_GETFSUUID,
EXT4_IOC_PRECACHE, BTRFS_IOC_SYNC, FIDEDUPERANGE, F2FS_IOC_PRECACHE_EXTENTS and OCFS2_IOC_INFO's kind."""


@X86_64
@attack(104)
async def test_no_session_uses_the_disk_that_all_share(repl: LocalRepl, open_repl: LocalRepl) -> None:
    assert (await answers(open_repl, DISK))[:4] == [errno.EBADF] * 3 + [0]
    assert await answers(repl, DISK) == [0, 0, 0, errno.EINVAL, errno.EINVAL, errno.ENOSYS] + [errno.EPERM] * 8
    work = "import os\nwith open('own', 'wb') as file: file.write(b'x'), file.flush(), os.fsync(file.fileno())"
    assert await value(repl, f"{work}\nos.path.getsize('own'), os.isatty(0)") == "(1, False)"


WATCH = """
import os
def watch():
    os.write(os.open("/proc/pressure/cpu", os.O_RDWR | os.O_NONBLOCK), b"some 150000 2000000\\0")
[attempt(watch), attempt(os.open, "/proc/pressure/cpu", os.O_RDONLY)]
"""


@attack(81)
@pytest.mark.skipif(not os.path.exists("/proc/pressure/cpu"), reason="this kernel does not measure its load")
async def test_no_session_has_the_machines_load_watched(repl: LocalRepl) -> None:
    descriptor = os.open("/proc/pressure/cpu", os.O_RDWR | os.O_NONBLOCK)
    os.write(descriptor, b"some 150000 2000000\0")  # an ordinary user may do it as often as there are descriptors
    os.close(descriptor)
    assert await answers(repl, WATCH) == [errno.ENOENT] * 2
    assert (
        await value(repl, "import os\nos.listdir('/proc/pressure'), os.access('/proc/pressure', os.W_OK)")
        == "([], False)"
    )


@attack(104)
async def test_no_session_learns_where_the_hosts_disks_are_free(repl: LocalRepl) -> None:
    """/proc/fs/ext4/*/mb_groups reads it from the disk."""
    assert await value(repl, "import os\nos.listdir('/proc/fs')") == "[]"


SHARED_FILE = "/opt/environment/pyvenv.cfg"


@attack(82)
async def test_no_session_holds_up_who_opens_a_file(repl: LocalRepl, open_repl: LocalRepl) -> None:
    """A lease lets an open(2) of others wait for 45 s. It takes the file's owner."""
    own = "open('own', 'w').close()\n"
    leases = "import fcntl\n[attempt(fcntl.fcntl, os.open('own', os.O_RDONLY), number, 0) for number in (1024, 1040)]"
    assert (await answers(open_repl, own + leases))[0] == 0
    assert await answers(repl, own + leases) == [errno.EPERM] * 2
    shared = f"import fcntl\n[attempt(fcntl.fcntl, os.open({SHARED_FILE!r}, os.O_RDONLY), 1024, 0)]"
    assert await answers(open_repl, shared) == [errno.EACCES if os.geteuid() == 0 else 0]
    assert await answers(repl, shared) == [errno.EPERM]


MARKS = f"""
import fcntl
shared = os.open({SHARED_FILE!r}, os.O_RDONLY)
[attempt(fcntl.fcntl, shared, 1036, bytes([3, 0, 0, 0, 0, 0, 0, 0])), attempt(os.utime, "/dev/null")]
"""


@attack(83)
async def test_no_session_marks_what_all_share(repl: LocalRepl, open_repl: LocalRepl) -> None:
    hint = errno.EPERM if os.geteuid() == 0 else 0  # it takes the file's owner
    assert (await answers(open_repl, MARKS))[0] == hint
    before = os.stat("/dev/null").st_mtime_ns
    assert await answers(repl, MARKS) == [errno.EPERM, errno.EROFS]
    assert os.stat("/dev/null").st_mtime_ns == before
    for device in ("null", "zero", "full", "random", "urandom", "tty"):
        assert await answers(repl, f"[attempt(os.utime, '/dev/{device}')]") == [errno.EROFS]
    work = "open('/dev/null', 'w').write('x'), open('/dev/zero', 'rb').read(2), len(open('/dev/urandom', 'rb').read(3))"
    assert await value(repl, work) == r"(1, b'\x00\x00', 3)"


PAGES = f"""
shared = os.open({SHARED_FILE!r}, os.O_RDONLY)
libc.mmap.restype = ctypes.c_void_p
page = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(4096), 1, 1, shared, ctypes.c_long(0)))
size = ctypes.c_size_t(4096)
[
    attempt(os.preadv, shared, [bytearray(16)], 0, os.RWF_NOWAIT),
    call("mincore", page, size, ctypes.create_string_buffer(1)),
    call("madvise", page, size, 20),  # MADV_COLD
    call("madvise", page, size, 21),  # MADV_PAGEOUT
    attempt(os.posix_fadvise, shared, 0, 0, os.POSIX_FADV_DONTNEED),
]
"""


@attack(83)
async def test_which_pages_of_shared_files_are_in_memory_is_not_told(repl: LocalRepl, open_repl: LocalRepl) -> None:
    assert await answers(open_repl, PAGES) == [0] * 5
    assert await answers(repl, PAGES) == [errno.EPERM] * 5
    # reading them does not show either: the mounts are read-only, so no time of access is kept
    age = f"import os\nopen({SHARED_FILE!r}).read()\nos.stat({SHARED_FILE!r}).st_atime_ns"
    assert await value(repl, age) == await value(repl, age)


MERGED = """
libc.mmap.restype = ctypes.c_void_p
page = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0)))
[call("madvise", page, ctypes.c_size_t(4096), 12), call("prctl", 67, 1, 0, 0, 0)]
"""
"""MADV_MERGEABLE and PR_SET_MEMORY_MERGE, which take a kernel and a right that many machines lack."""


@attack(83)
async def test_no_session_learns_whether_others_hold_equal_pages(repl: LocalRepl) -> None:
    assert await answers(repl, MERGED) == [errno.EPERM] * 2


HONEST = {
    "processes that wait for a lock, a pool and a queue": """
import multiprocessing as mp, time
lock, queue, pool = mp.Lock(), mp.SimpleQueue(), mp.Pool(3)
def work(number):
    with lock:
        queue.put(number)
workers = [mp.Process(target=work, args=(number,)) for number in range(4)]
with lock:
    for each in workers: each.start()
for each in workers: each.join()
found = sorted(queue.get() for _ in workers), pool.map(abs, [-1, -2])
pool.terminate()
pool.join()
found == ([0, 1, 2, 3], [1, 2])
""",
    "programs with more input and output than a pipe holds": """
import subprocess
subprocess.run(["cat"], input=bytes(1 << 20), capture_output=True, check=True).stdout == bytes(1 << 20)
""",
    "an event loop with a socket and a program": """
import asyncio
async def talk():
    ready = asyncio.Event()
    async def answer(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        ready.set()
    server = await asyncio.start_unix_server(answer, "/tmp/server")
    reader, writer = await asyncio.open_unix_connection("/tmp/server")
    writer.write(b"hello\\n")
    line = await reader.readline()
    await ready.wait()
    writer.close()
    server.close()
    program = await asyncio.create_subprocess_exec("echo", "again", stdout=asyncio.subprocess.PIPE)
    return line, (await program.communicate())[0]
(await talk()) == (b"hello\\n", b"again\\n")
""",
    "locks on files of its own, a database": """
import fcntl, sqlite3
with open("lock", "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    fcntl.lockf(file, fcntl.LOCK_EX)
database = sqlite3.connect("own.db")
database.execute("pragma journal_mode=wal")
database.execute("create table t (x)")
database.execute("insert into t values (7)")
database.commit()
database.execute("select x from t").fetchone() == (7,)
""",
    "files in memory, advice, timers": """
import mmap, os, signal, time
import numpy as np
np.save("own.npy", np.arange(9))
mapped = np.load("own.npy", mmap_mode="r")
with open("own.npy", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
    view.madvise(mmap.MADV_WILLNEED)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
    head = view[1:6]
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
(int(mapped.sum()), head) == (36, b"NUMPY")
""",
}


@pytest.mark.parametrize("code", HONEST.values(), ids=HONEST)
async def test_honest_use_of_the_same_works(repl: LocalRepl, code: str) -> None:
    assert await value(repl, code) == "True"


@attack(39)
async def test_no_session_changes_settings_even_where_its_user_owns_them(repl: LocalRepl) -> None:
    """The ordinary user of the test above owns them: outside of its user namespace, it is root."""
    code = """
refused = []
for directory, _, names in os.walk("/proc/sys"):
    for place in (os.path.join(directory, name) for name in names):
        if not place.startswith(own):
            refused.append(attempt(lambda: os.close(os.open(place, os.O_WRONLY))))
others = [f"/proc/{name}" for name in ("sysrq-trigger", "irq/default_smp_affinity", "bus/pci/00/00.0")]
[*sorted({*refused, *(attempt(os.open, place, os.O_WRONLY) for place in others)})]"""
    assert set(await answers(repl, f"own = {OWN_SETTINGS!r}\n{code}")) <= {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
    }


@attack(41)
async def test_no_session_reads_the_names_of_its_users_keys(repl: LocalRepl) -> None:
    assert await value(repl, "open('/proc/keys').read(), open('/proc/key-users').read()") == "('', '')"
