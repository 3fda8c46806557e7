"""Copies of one REPL: the same user, in namespaces of their own. What they can reach of each other, and what they cannot."""

import errno
import json
import os
from pathlib import Path

import pytest
from cases import attack
from fault_traces import counts, settled
from repl_sessions import no_tools, run, value
from syscalls import answers

from lzero.errors import ForkRefused
from lzero.repl import LocalPool, LocalRepl
from lzero.repl.processes import tree

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("own_temporary_directory"),
]
SHUT_IN = """
import os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
[int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")], status["NoNewPrivs"], status["Seccomp"]
"""
OWN = ("user", "mnt", "pid", "ipc", "uts", "net")


async def namespaces(repl: LocalRepl) -> dict[str, str]:
    return dict(
        json.loads(
            (
                await value(
                    repl, f"import os, json\njson.dumps([(n, os.readlink('/proc/self/ns/' + n)) for n in {OWN}])"
                )
            )[1:-1]
        )
    )


@attack(42)
async def test_a_copy_is_shut_in_as_its_original_is_and_apart(pool: LocalPool) -> None:
    original = await pool.open((), no_tools, seed=0)
    before = await namespaces(original)
    copy = await original.fork(no_tools, seed=1)
    further = await copy.fork(no_tools, seed=2)
    seen = [await namespaces(each) for each in (original, copy, further)]
    assert {kind for kind in OWN if seen[0][kind] != before[kind]} == {"user"}  # it stepped aside
    assert all(len({each[kind] for each in seen}) == 3 for kind in OWN)
    for each in (original, copy, further):
        assert await value(each, SHUT_IN) == "([0, 0, 0, 0], '1', '2')"
        assert await value(each, "open('/proc/sys/user/max_user_namespaces').read()") == "'0\\n'"
        # into what a copy is made to step; nothing, itself, its init, and another namespace's user
        steps = (
            "[call('syscall', 308, descriptor, flags) for flags in (0x10000000, 0x7c020000) for descriptor in found]"
        )
        own = "found = [os.open('/proc/self/ns/user', 0), os.pidfd_open(os.getpid()), os.pidfd_open(1)]\n"
        assert set(await answers(each, own + steps)) == {errno.EPERM}
        assert (
            await answers(each, own + "[call('syscall', 308, d, f) for d in found for f in (0, 0x20000)]")
            == [errno.EPERM] * 6
        )
        assert await answers(each, "[call('syscall', 272, f) for f in (0x10000000, 0x7c020000)]") == [errno.EPERM] * 2
    for each in (further, original, copy):
        await each.close()


FILTER = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def answer_oneself(*numbers):
    code = [(0x20, 0, 0, 0)]
    for number in numbers:
        code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000)]
    code = [*code, (0x06, 0, 0, 0x7FFF0000)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(text)))
    return libc.prctl(22, 2, program, 0, 0)
"""


@attack(42)
async def test_a_session_that_answers_calls_in_place_of_the_kernel_is_not_copied(
    pool: LocalPool, open_pool: LocalPool
) -> None:
    """Its own filter says "done" to what it is made to do. An original that did not step down would have all rights over its copy."""
    original = await pool.open((), no_tools, seed=0)
    for number in (308, 112, 126, 292):  # setns, setsid, capset, dup3
        assert await value(original, f"{FILTER}answer_oneself({number}), ctypes.get_errno()") == "(-1, 1)"
    await (await original.fork(no_tools, seed=1)).close()
    await original.close()
    original = await open_pool.open((), no_tools, seed=0)
    assert await value(original, f"{FILTER}answer_oneself(308), answer_oneself(112)") == "(0, 0)"
    with pytest.raises(ForkRefused, match="filters system calls"):
        await original.fork(no_tools, seed=1)
    assert await value(original, "6 * 7") == "42"
    await original.close()


@attack(42)
async def test_no_session_makes_a_child_that_is_none_of_its_own(pool: LocalPool) -> None:
    """A sibling would be counted nowhere, run while its maker is copied, share its memory and descriptors meanwhile, and stay above
    the copy, with all rights over it."""
    original = await pool.open((), no_tools, seed=0)
    copy = await original.fork(no_tools, seed=1)
    for each in (original, copy):
        flags = (0x8000, 0x8100, 0x8700)  # CLONE_PARENT; with memory, file system and descriptors in common
        assert await answers(each, f"[call('syscall', 56, flag | 17, 0, 0, 0, 0, 0) for flag in {flags}]") == [1, 1, 1]
    for each in (copy, original):
        await each.close()


@attack(42)
async def test_the_key_to_the_filter_is_not_in_a_session(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    assert await value(repl, "import sys\nset(sys.modules['_inside_isolate']._FILTER.kept.raw)") == "{0}"
    await repl.close()


@attack(23)
async def test_no_memory_and_no_file_of_one_is_in_reach_of_another(pool: LocalPool) -> None:
    original = await pool.open((), no_tools, seed=0)
    copy = await original.fork(no_tools, seed=1)
    further = await copy.fork(no_tools, seed=2)
    await run(copy, "secret = 'of the copy'; open('secret', 'w').write(secret)")
    family = (original, copy, further)
    for each in family:
        others = [line for repl in family if repl is not each for line in repl.host_pids]
        assert await value(each, "import os\n[name for name in os.listdir('/proc') if name.isdigit()]") == "['2']"
        look = """
found = set()
for pid in range(1, 3000):
    if pid == os.getpid(): continue
    for name in ("mem", "maps", "environ", "fd", "root/workspace", "cwd", "status", "cmdline"):
        if os.path.lexists(f"/proc/{pid}/{name}"): found.add((pid, name))
sorted(found), os.path.exists("/workspace/secret")
"""
        assert await value(each, look) == f"([], {each is copy})"
        assert others
    for each in family:
        await each.close()


@attack(24)
async def test_a_copy_signals_neither_its_original_nor_other_copies(pool: LocalPool) -> None:
    original = await pool.open((), no_tools, seed=0)
    copies = [await original.fork(no_tools, seed=seed) for seed in range(2)]
    everybody = """
import os, signal
for pid in (-1, *range(3, 5000)):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try: os.kill(pid, number)
        except ProcessLookupError: pass
"""
    assert (await run(copies[0], everybody)).status == "ok"
    assert [await value(each, "6 * 7") for each in (original, *copies)] == ["42"] * 3
    for each in (*copies, original):
        await each.close()


@attack(24)
async def test_an_original_that_signals_its_copies_harms_no_other(pool: LocalPool, repl: LocalRepl) -> None:
    """The one thing that is in reach: it is their ancestor, and the same user."""
    original = await pool.open((), no_tools, seed=0)
    copy = await original.fork(no_tools, seed=1)
    assert (await run(original, "import os\nos.kill(-1, 9)")).status == "ok"
    execution = await run(copy, "1")
    assert (execution.status, execution.reason) == ("killed", "exit: the session was killed by SIGKILL")
    assert [await value(each, "6 * 7") for each in (original, repl)] == ["42"] * 2
    await copy.close()
    await original.close()


@attack(25)
async def test_a_session_cannot_look_into_the_init_of_a_copy(pool: LocalPool) -> None:
    """It shares the user namespace, and has a right that the session has not."""
    original = await pool.open((), no_tools, seed=0)
    copy = await original.fork(no_tools, seed=1)
    places = "('mem', 'environ', 'maps', 'root', 'cwd', 'fd', 'ns/user', 'status')"
    assert (
        await value(copy, f"import os\n[os.path.lexists(f'/proc/1/{{name}}') for name in {places}].count(True)") == "0"
    )
    for number in (9, 15, 19, 17):
        assert (await run(copy, f"os.kill(1, {number})")).status == "ok"
    orphan = "import subprocess\nfor _ in range(20): subprocess.run(['sh', '-c', 'true &'])"
    assert (await run(copy, orphan)).status == "ok"
    assert await value(copy, "while len([n for n in os.listdir('/proc') if n.isdigit()]) > 1: pass\n1") == "1"
    await copy.close()
    await original.close()


@attack(38)
async def test_no_descriptor_is_shared_with_a_copy(pool: LocalPool) -> None:
    original = await pool.open((), no_tools, seed=0)
    copy = await original.fork(no_tools, seed=1)
    links = """
import os
seen = {n: os.readlink(f"/proc/self/fd/{n}").partition(":[")[0] for n in os.listdir("/proc/self/fd")[:-1]}
sorted(seen.items())
"""
    assert await value(original, links) == await value(copy, links)
    numbers = "[os.fstat(int(n)).st_ino for n in seen if seen[n] != '/dev/null']"
    one, other = [json.loads(await value(each, numbers)) for each in (original, copy)]
    assert len(one) >= 5  # the connection, and two files for what is written, each open twice
    assert not set(one) & set(other)
    for each in (original, copy):  # nor does an init keep a connection open
        _, init = each.host_pids
        kept = [os.readlink(place) for place in Path(f"/proc/{init}/fd").iterdir()]
        assert not [target for target in kept if target.startswith("socket:")]
    await copy.close()
    await original.close()


@attack(18)
async def test_what_an_original_leaves_behind_ends_with_it_though_its_copies_live(pool: LocalPool) -> None:
    before = counts()
    original = await pool.open((), no_tools, seed=0)
    copy = await original.fork(no_tools, seed=1)
    bomb = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork(): os._exit(0)
            time.sleep(0.001)
"""
    assert (await run(original, bomb)).status == "ok"
    assert (await run(original, "os._exit(0)")).status == "killed"
    await original.close()
    assert len(tree(copy.host_pids[:1])) == 1
    assert await value(copy, "6 * 7") == "42"
    await copy.close()
    await settled(before)


NEST = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if (pid := os.fork()) == 0:
    os._exit(ctypes.get_errno() if libc.unshare(0x10000000) else 0)
os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@attack(42)
async def test_neither_original_nor_copy_can_nest_namespaces_without_the_filter_either(open_repl: LocalRepl) -> None:
    copy = await open_repl.fork(no_tools, seed=2)
    for each in (open_repl, copy):
        assert await value(each, NEST) == str(errno.ENOSPC)
    await copy.close()
