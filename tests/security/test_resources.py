"""Resources: whatever a session takes too much of, it runs into its own limit, and its siblings do not notice.

Where the defence is a limit, `repl` has a larger one than `tight`: the attack that stops in the one goes on in the other.
"""

import ast
import errno
import time

import pytest
from cases import attack
from repl_sessions import no_tools, raised, value
from tight_sessions import TIGHT, answers_beside, is_well, until_it_fails

from lzero.repl import LocalPool, LocalRepl

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


FORKED = "pid = os.fork()\n        if pid == 0: time.sleep(600)"


@attack(1)
async def test_forking_ends_at_the_limit(repl: LocalRepl, tight: LocalRepl, sibling: LocalRepl) -> None:
    assert await until_it_fails(repl, "import time", FORKED, 30) == (30, "")
    free = TIGHT.processes - 2  # beside the session itself and the thread that makes its children's calls
    assert await until_it_fails(tight, "import time", FORKED, 30) == (free, str(errno.EAGAIN))
    assert await raised(tight, "import subprocess\nsubprocess.run(['true'])") == "BlockingIOError"
    assert await is_well(sibling)


@attack(1)
async def test_a_fork_bomb_is_only_its_own_misfortune(
    tight_pool: LocalPool, tight: LocalRepl, sibling: LocalRepl
) -> None:
    """Every copy comes to the end of the cell with the same error; one of them is the session."""
    assert await raised(tight, "import os\nwhile True: os.fork()") == "BlockingIOError"
    assert await value(tight, "1 + 1") == "2"
    bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except BlockingIOError: time.sleep(0.02)"
    assert await answers_beside(await tight_pool.open((), no_tools, seed=0), bomb, sibling)


@attack(2)
async def test_starting_threads_ends_at_the_limit(repl: LocalRepl, tight: LocalRepl, sibling: LocalRepl) -> None:
    setup = "import threading\nstop = threading.Event()"
    step = "threading.Thread(target=stop.wait, daemon=True).start()"
    assert await until_it_fails(repl, setup, step, 30) == (30, "")
    assert await until_it_fails(tight, setup, step, 100_000) == (TIGHT.processes - 1, "RuntimeError")
    assert await is_well(sibling)
    assert await value(tight, "stop.set()\n1 + 1") == "2"


@attack(3)
async def test_one_huge_allocation_is_an_error(repl: LocalRepl, tight: LocalRepl) -> None:
    reserve = "import mmap\nspace = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE)\nspace.close()"  # no page of it is ever touched
    assert await raised(repl, reserve) == ""
    assert await raised(tight, reserve) == "OSError"
    for attempt in ("bytearray(10 ** 12)", "'x' * 10 ** 12", "[None] * 10 ** 12", "import numpy\nnumpy.ones(10 ** 12)"):
        assert await raised(repl, attempt) in ("MemoryError", "_ArrayMemoryError"), attempt
    assert await value(repl, "len(bytearray(10 ** 6))") == "1000000"


@attack(5)
async def test_shared_memory_files_are_capped(repl: LocalRepl, tight: LocalRepl, sibling: LocalRepl) -> None:
    """They lie in the same space as the workspace."""
    step = "open(f'/dev/shm/{done}', 'wb').write(bytes(1 << 20))"
    assert await until_it_fails(repl, "", step, 24) == (24, "")
    done, met = await until_it_fails(tight, "", step, 24)
    assert 8 < done < 17
    assert met == str(errno.ENOSPC)
    assert await raised(tight, "open('here', 'wb').write(bytes(1 << 20))") == "OSError"
    assert await is_well(sibling)


@attack(6)
async def test_locked_and_huge_mappings_are_refused(repl: LocalRepl) -> None:
    code = """
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE)
address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)))
def call(name, *arguments):
    ctypes.set_errno(0)
    return 0 if getattr(libc, name)(*arguments) == 0 else ctypes.get_errno()
def mapped(length, extra):
    try:
        mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | extra).close()
        return 0
    except OSError as error:
        return error.errno
locked = call("mlock", address, mmap.PAGESIZE), call("mlock2", address, mmap.PAGESIZE, 1), call("mlockall", 1)
locked, mapped(mmap.PAGESIZE, 0x2000), mapped(1 << 40, 0), mapped(1 << 40, 0x4000)
"""
    locked, locked_mapping, huge, huge_unreserved = ast.literal_eval(await value(repl, code))
    assert set(locked) <= {errno.EPERM, errno.ENOMEM}
    assert locked_mapping in (errno.EPERM, errno.EAGAIN)
    assert (huge, huge_unreserved) == (errno.ENOMEM, errno.ENOMEM)


@attack(7)
async def test_a_full_workspace_is_full_inside_only(repl: LocalRepl, tight: LocalRepl, sibling: LocalRepl) -> None:
    step = "open(f'{done}', 'wb').write(bytes(1 << 20))"
    assert await until_it_fails(repl, "", step, 24) == (24, "")
    done, met = await until_it_fails(tight, "", step, 24)
    assert 8 < done < 17
    assert met == str(errno.ENOSPC)
    assert await raised(tight, "open('/tmp/x', 'wb').write(bytes(1 << 20))") == "OSError"  # the same space
    assert await is_well(sibling)
    assert await value(tight, "os.remove('0')\nopen('0', 'wb').write(bytes(1 << 10))") == "1024"


@attack(8)
async def test_files_have_a_number(repl: LocalRepl, tight: LocalRepl, sibling: LocalRepl) -> None:
    step = "os.close(os.open(f'{done}', os.O_CREAT))"
    assert await until_it_fails(repl, "", step, 1000) == (1000, "")
    done, met = await until_it_fails(tight, "", step, 1000)
    assert 400 < done < TIGHT.files
    assert met == str(errno.ENOSPC)
    assert await raised(tight, "os.mkdir('/tmp/one more')") == "OSError"
    assert await is_well(sibling)


@attack(9)
async def test_sparse_giants_deep_trees_and_long_names_are_bounded(pool: LocalPool, tight: LocalRepl) -> None:
    repl = await pool.open((), no_tools, seed=0)
    giant = "os.ftruncate(os.open('giant', os.O_CREAT | os.O_RDWR), 1 << 60)"
    assert await until_it_fails(repl, "", giant, 1) == (0, str(errno.EFBIG))
    assert await until_it_fails(repl, "", "open('n' * (255 + done), 'w').close()", 2) == (1, str(errno.ENAMETOOLONG))
    deeper = "os.mkdir('d' * 255); os.chdir('d' * 255)"
    assert await until_it_fails(repl, "", deeper, 10_000) == (10_000, "")
    done, met = await until_it_fails(tight, "", deeper, 10_000)
    assert done < TIGHT.files
    assert met == str(errno.ENOSPC)
    assert await value(repl, "1 + 1") == "2"  # from a place whose name is too long for getcwd
    started = time.monotonic()
    await repl.close()
    assert time.monotonic() - started < 10.0
    after = await pool.open((), no_tools, seed=0)
    assert await value(after, "import os\nos.listdir()") == "[]"
    await after.close()


@attack(10)
async def test_descriptors_have_a_number(repl: LocalRepl, tight: LocalRepl, sibling: LocalRepl) -> None:
    step = "os.open('/dev/null', os.O_RDONLY)"
    assert await until_it_fails(repl, "", step, 100) == (100, "")
    done, met = await until_it_fails(tight, "", step, 100)
    assert done < TIGHT.open_files
    assert met == str(errno.EMFILE)
    assert await value(tight, "os.closerange(6, 64)\n1 + 1") == "2"
    assert await is_well(sibling)


@attack(10)
async def test_descriptors_in_flight_have_a_number(tight: LocalRepl, sibling: LocalRepl) -> None:
    """What was sent and never received is open too, though in nobody's table."""
    setup = "import socket\npairs = [socket.socketpair() for _ in range(20)]\n"
    setup += "for pair in pairs: pair[0].setblocking(False)"
    step = "socket.send_fds(pairs[done % 20][0], [b'x'], [0] * 10)"
    done, met = await until_it_fails(tight, setup, step, 10_000)
    assert done * 10 <= TIGHT.open_files + 10
    assert met == str(errno.ETOOMANYREFS)
    assert await is_well(sibling)
    pipes = "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 1 << 30)"
    assert await raised(tight, pipes) == "PermissionError"
