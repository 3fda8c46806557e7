"""Network and interprocess communication: a session speaks to the host over its one descriptor, and to nobody else."""

import time

import pytest
from cases import attack
from repl_sessions import no_tools, raised, value

from lzero.repl import LocalPool, LocalRepl

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

LISTEN = "import socket\nserver = socket.socket(socket.{family})\nserver.bind({address!r})\nserver.listen()\n1"
CONNECT = "import socket\nclient = socket.socket(socket.{family})\nclient.settimeout(2)\nclient.connect({address!r})\n1"


LOOK = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmget(4711, 0, 0), libc.msgget(4711, 0), libc.semget(4711, 0, 0)
"""


async def connects(pool: LocalPool, family: str, address: object) -> str:
    """Return the error of a second session that connects to the first; "" for success."""
    first, second = [await pool.open((), no_tools, seed=number) for number in range(2)]
    assert await value(first, LISTEN.format(family=family, address=address)) == "1"
    met = await raised(second, CONNECT.format(family=family, address=address))
    await first.close()
    await second.close()
    return met


@attack(49)
async def test_nothing_is_reachable_and_nothing_hangs(repl: LocalRepl) -> None:
    targets = ("'1.1.1.1', 53", "'169.254.169.254', 80", "'127.0.0.1', 22", "'10.0.0.1', 80", "'::1', 22")
    for target in targets:
        started = time.monotonic()
        assert await raised(repl, f"import socket\nsocket.create_connection(({target}), timeout=30)") == "OSError"
        assert time.monotonic() - started < 5


@attack(49)
async def test_nothing_is_reachable_without_the_filter_either(open_pool: LocalPool) -> None:
    repl = await open_pool.open((), no_tools, seed=0)
    assert await raised(repl, "import socket\nsocket.create_connection(('1.1.1.1', 53), timeout=30)") == "OSError"
    assert await raised(repl, "import socket\nsocket.create_connection(('127.0.0.1', 22), timeout=30)") == "OSError"
    assert await value(repl, "[line.split(':')[0].strip() for line in open('/proc/net/dev')][2:]") == "['lo']"
    await repl.close()


@attack(50)
async def test_there_is_no_resolver(repl: LocalRepl) -> None:
    started = time.monotonic()
    assert await raised(repl, "import socket\nsocket.getaddrinfo('secret.example.com', 80)") == "gaierror"
    assert time.monotonic() - started < 5


@attack(51)
async def test_abstract_sockets_are_not_shared(pool: LocalPool) -> None:
    async with LocalPool(without=("network",)) as shared:
        assert await connects(shared, "AF_UNIX", "\0meeting point") == ""
    assert await connects(pool, "AF_UNIX", "\0meeting point") == "ConnectionRefusedError"


@attack(52)
async def test_loopback_is_not_shared(open_pool: LocalPool) -> None:
    async with LocalPool(without=("network", "seccomp")) as shared:
        assert await connects(shared, "AF_INET", ("127.0.0.1", 5005)) == ""
    assert await connects(open_pool, "AF_INET", ("127.0.0.1", 5005)) == "OSError"  # its own loopback, and that is down


@attack(53)
async def test_names_of_shared_memory_and_queues_are_not_shared(open_pool: LocalPool, repl: LocalRepl) -> None:
    make = """
import ctypes
from multiprocessing.shared_memory import SharedMemory
libc = ctypes.CDLL(None, use_errno=True)
mine = SharedMemory("meeting", create=True, size=100)
libc.shmget(4711, 100, 0o1666) >= 0, libc.msgget(4711, 0o1666) >= 0, libc.semget(4711, 1, 0o1666) >= 0
"""
    first, other = [await open_pool.open((), no_tools, seed=number) for number in range(2)]
    assert await value(first, make) == "(True, True, True)"
    assert await value(other, LOOK) == "(-1, -1, -1)"
    attach = "from multiprocessing.shared_memory import SharedMemory\nSharedMemory('meeting')"
    assert await raised(other, attach) == "FileNotFoundError"
    await first.close()
    await other.close()
    assert await value(repl, make) == "(False, False, False)"  # nor can any be made


@attack(54)
async def test_nothing_that_is_shared_can_be_written(repl: LocalRepl) -> None:
    writable = """
import os
found = []
for line in open("/proc/mounts"):
    place, options = line.split()[1], line.split()[3].split(",")
    if "rw" in options and not place.startswith("/proc"):
        found.append(place)
sorted(set(found))
"""
    shown = await value(repl, writable)
    assert set(__import__("ast").literal_eval(shown)) <= {
        "/workspace",
        "/tmp",
        "/dev/shm",
        "/dev/pts",
        "/dev/console",
    }, shown
