"""A copy of a live REPL is what the original was at that moment; from then on neither knows of the other."""

import asyncio
import contextlib
import random

import pytest
from fault_traces import counts, settled
from repl_sessions import ASK, no_tools, run, value

from lzero.config import ReplConfig
from lzero.errors import ForkRefused, ReplDied
from lzero.protocols import OnCall
from lzero.repl import Limits, LocalPool
from lzero.types import Json, Stream

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("own_temporary_directory"),
]


def answers(word: str) -> OnCall:
    async def on_call(name: str, arguments: dict[str, Json]) -> Json:
        return f"{word}: {arguments['question']}"

    return on_call


async def test_a_copy_has_variables_imports_and_files(pool: LocalPool) -> None:
    original = await pool.open((), no_tools, seed=1)
    made = """
import os, json, pathlib, numpy, pandas
frame = pandas.DataFrame({"n": numpy.arange(1000)})
frame.to_csv("frame.csv")
os.makedirs("deep/er"); pathlib.Path("deep/er/x").write_bytes(bytes(range(256))); os.symlink("er/x", "deep/link")
os.chmod("frame.csv", 0o640); pathlib.Path("/tmp/t").write_text("t"); os.chdir("deep")
class Point:
    def __init__(self, x): self.x = x
points = [Point(1)]; points.append(points)
"""
    assert (await run(original, made)).status == "ok"
    copy = await original.fork(no_tools, seed=2)
    look = (
        "int(frame.n.sum()), points[0].x, points[1] is points, os.getcwd(), os.readlink('link'), open('link', 'rb').read() == "
        "bytes(range(256)), oct(os.stat('/workspace/frame.csv').st_mode), open('/tmp/t').read(), len(pandas.read_csv('../frame.csv'))"
    )
    seen = [await value(each, look) for each in (original, copy)]
    assert seen[0] == seen[1]
    assert (
        await value(copy, "os.getpid(), os.getppid(), [n for n in os.listdir('/proc') if n.isdigit()]")
        == "(2, 0, ['2'])"
    )
    assert (
        await value(original, "os.getpid(), os.getppid(), [n for n in os.listdir('/proc') if n.isdigit()]")
        == "(2, 0, ['2'])"
    )
    await copy.close()
    await original.close()


async def test_what_one_changes_the_other_does_not_see(pool: LocalPool) -> None:
    original = await pool.open((), no_tools, seed=1)
    await run(original, "import os\nx = [1]\nopen('kept', 'w').write('before')")
    copy = await original.fork(no_tools, seed=2)
    await run(copy, "x.append('copy'); open('kept', 'w').write('copy'); open('new', 'w').close(); print('heard')")
    await run(original, "x.append('original'); os.remove('kept')")
    assert await value(original, "x, os.listdir()") == "([1, 'original'], [])"
    assert await value(copy, "x, sorted(os.listdir()), open('kept').read()") == "([1, 'copy'], ['kept', 'new'], 'copy')"
    await original.put("only.txt", b"original")
    assert [file.path for file in await copy.files()] == ["kept", "new"]
    await original.close()
    assert await value(copy, "x") == "[1, 'copy']"
    assert "heard" in str((await run(copy, "import subprocess\nsubprocess.run(['echo', 'heard']); None")).outputs)
    await copy.close()


async def test_seeds_and_calls_are_its_own(pool: LocalPool) -> None:
    original = await pool.open((ASK,), answers("original"), seed=1)
    await run(original, "import random, numpy, uuid\nbefore = ask('0'), random.random()")
    copies = [await original.fork(answers(f"copy {n}"), seed=seed) for n, seed in enumerate((5, 5, 6))]
    draws = [await value(each, "random.random(), numpy.random.random()") for each in copies]
    assert draws[0] == draws[1] != draws[2]
    expected = random.Random(1)
    expected.random()
    assert await value(original, "random.random()") == repr(expected.random())  # it goes on untouched
    assert len({await value(each, "uuid.uuid4()") for each in (original, *copies)}) == 4
    assert [await value(each, "ask('1')") for each in (original, *copies)] == [
        "'original: 1'", "'copy 0: 1'", "'copy 1: 1'", "'copy 2: 1'",
    ]  # fmt: skip
    for each in (*copies, original):
        await each.close()


async def test_copies_of_copies_in_any_order(pool: LocalPool) -> None:
    first = await pool.open((), no_tools, seed=0)
    await run(first, "line = ['a']")
    second = await first.fork(no_tools, seed=1)
    await run(second, "line.append('b')")
    third = await second.fork(no_tools, seed=2)
    await run(third, "line.append('c')")
    fourth = await first.fork(no_tools, seed=3)
    everybody = {"first": first, "second": second, "third": third, "fourth": fourth}
    held = {"first": "['a']", "second": "['a', 'b']", "third": "['a', 'b', 'c']", "fourth": "['a']"}
    for name in ("second", "first", "third", "fourth"):
        for other, repl in everybody.items():
            assert await value(repl, "line") == held[other]
        await everybody.pop(name).close()


async def test_nothing_is_left_of_a_family(pool: LocalPool) -> None:
    gone = await pool.open((), no_tools, seed=0)
    await gone.close()
    before = counts()
    leave = "import subprocess\nhelper = subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        original = await pool.open((), no_tools, seed=0)
        copy = await original.fork(no_tools, seed=1)
        family = [original, copy, await copy.fork(no_tools, seed=2)]
        for each in family:
            assert (await run(each, leave)).status == "ok"
        for place in order:
            await family[place].close()
        await settled(before)
    assert pool.stats()["open"] == 0


async def test_a_pool_that_closes_ends_families() -> None:
    before = counts()
    async with LocalPool() as pool:
        original = await pool.open((), no_tools, seed=0)
        copy = await original.fork(no_tools, seed=1)
        assert pool.stats()["open"] == 2
    with pytest.raises(ReplDied):
        await copy.run("1", deadline_s=5.0)
    await settled(before)


async def test_each_has_its_own_deadline_and_end(pool: LocalPool) -> None:
    original = await pool.open((), no_tools, seed=0)
    copy = await original.fork(no_tools, seed=1)
    spinning = asyncio.create_task(original.run("while True: pass", deadline_s=0.5))
    assert await value(copy, "6 * 7") == "42"
    assert (await spinning).status == "timed_out"
    stubborn = "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"
    execution = await copy.run(stubborn, deadline_s=0.3)
    assert execution.status == "killed"
    assert await value(original, "6 * 7") == "42"
    another = await original.fork(no_tools, seed=2)
    execution = await run(original, "import os\nos._exit(3)")
    assert execution.reason == "exit: the session exited with code 3"
    assert await value(another, "6 * 7") == "42"
    for each in (copy, original, another):
        await each.close()


async def test_each_has_its_own_limits() -> None:
    config = ReplConfig()
    limits = Limits(memory_bytes=256 << 20, disk_bytes=8 << 20, files=200, processes=12, open_files=config.open_files)
    async with LocalPool(config, limits=limits) as pool:
        original = await pool.open((), no_tools, seed=0)
        copy = await original.fork(no_tools, seed=1)
        fill = "import os, subprocess\nwith open('big', 'wb') as file: file.write(bytes(7 << 20))"
        sleepers = "children = [subprocess.Popen(['sleep', '60']) for _ in range(8)]; len(children)"
        for each in (original, copy):
            assert (await run(each, fill)).status == "ok"
            assert await value(each, sleepers) == "8"
        assert (await run(copy, "children += [subprocess.Popen(['sleep', '60']) for _ in range(8)]")).status == "error"
        assert (await run(copy, "with open('more', 'wb') as file: file.write(bytes(7 << 20))")).status == "error"
        hoard = "import time\nfor _ in range(6):\n    if not os.fork():\n        kept = bytearray(b'x') * (64 << 20)\n"
        hoard += "        time.sleep(60)\ntime.sleep(30)"
        assert (await run(copy, "for child in children: child.kill(); child.wait()")).status == "ok"
        execution = await copy.run(hoard, deadline_s=60.0)
        assert (execution.status, execution.reason.partition(":")[0]) == ("killed", "memory")
        assert await value(original, "len(children)") == "8"
        await copy.close()
        await original.close()


REFUSED = {
    "threads": ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "threads"),
    "a child": ("import subprocess\nchild = subprocess.Popen(['sleep', '60'])", "processes of its own"),
    "an orphan": ("import subprocess\nsubprocess.run('sleep 60 &', shell=True)", "processes of its own"),
    "a socket": ("import socket\npair = socket.socketpair()", "a socket open"),
    "a file": ("file = open('x', 'w')", "/workspace/x open"),
    "a pipe": ("import os\npipe = os.pipe()", "pipe:"),
    "shared memory": (
        "import mmap\nwith open('/dev/shm/x', 'wb+') as file: file.truncate(4096); shared = mmap.mmap(file.fileno(), 4096)",
        "which the copy would share",
    ),
    "a mapped file": (
        "import numpy\nmapped = numpy.memmap('x', mode='w+', shape=(8,)); mapped._mmap.madvise(0)", "which the copy would share",
    ),
    "a lost directory": ("import os\nos.mkdir('gone'); os.chdir('gone'); os.rmdir('/workspace/gone')", "directory is gone"),
    "a deep tree": (
        "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nos.chdir('/workspace')", "cannot be copied",
    ),
    "a fifo": ("import os\nos.mkfifo('f')", "cannot be copied"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "reason"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_cannot_be_copied_says_why_and_goes_on(pool: LocalPool, code: str, reason: str) -> None:
    before = pool.stats()["open"]
    repl = await pool.open((), no_tools, seed=0)
    assert (await run(repl, f"x = 7\n{code}")).status == "ok"
    with pytest.raises(ForkRefused, match=reason):
        await repl.fork(no_tools, seed=1)
    assert await value(repl, "x") == "7"
    assert await value(repl, "open('/proc/sys/user/max_user_namespaces').read()") == "'0\\n'"
    await repl.close()
    assert pool.stats()["open"] == before


async def test_children_that_have_called_tools_and_ended_are_no_obstacle(pool: LocalPool) -> None:
    original = await pool.open([ASK], answers("original"), seed=1)
    code = "import os\npid = os.fork()\nif pid == 0:\n    print(ask('x')); os._exit(0)\n_ = os.waitpid(pid, 0)"
    printed = "import os\nos.write(1, b'here\\n');"
    for _ in range(2):
        assert (await run(original, code)).outputs == (Stream(name="stdout", text="original: x\n"),)
        assert (await run(original, printed)).outputs == (Stream(name="stdout", text="here\n"),)
        copy = await original.fork(answers("copy"), seed=2)
        assert (await run(copy, code)).outputs == (Stream(name="stdout", text="copy: x\n"),)
        assert (await run(copy, printed)).outputs == (Stream(name="stdout", text="here\n"),)
        await copy.close()
    await original.close()


async def test_a_call_that_waits_for_the_next_cell_delays_no_copy(pool: LocalPool) -> None:
    original = await pool.open([ASK], answers("original"), seed=1)
    grandchild = "    if not os.fork():\n        while True: ask('x')\n    os._exit(0)"
    code = f"import os\nif not (child := os.fork()):\n{grandchild}\n_ = os.waitpid(child, 0)"
    assert (await run(original, code)).status == "ok"
    async with asyncio.timeout(8.0):
        with contextlib.suppress(ForkRefused):  # where the grandchild, whose call was refused, has not ended yet
            await (await original.fork(no_tools, seed=2)).close()
    assert (await run(original, "")).status == "ok"
    await original.close()


async def test_a_loop_that_awaited_is_no_obstacle(pool: LocalPool) -> None:
    original = await pool.open((), no_tools, seed=0)
    assert (await run(original, "import asyncio\nawait asyncio.sleep(0)")).status == "ok"
    copy = await original.fork(no_tools, seed=1)
    for each in (original, copy):
        assert (await run(each, "await asyncio.sleep(0.01)")).status == "ok"
        await each.close()


async def test_it_is_asked_between_cells_of_a_living_one(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    running = asyncio.create_task(repl.run("import time; time.sleep(0.5)", deadline_s=20.0))
    await asyncio.sleep(0)
    with pytest.raises(ForkRefused, match="while a cell runs"):
        await repl.fork(no_tools, seed=1)
    assert (await running).status == "ok"
    await repl.close()
    with pytest.raises(ReplDied):
        await repl.fork(no_tools, seed=1)


async def test_a_line_of_copies_has_an_end(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    generations = 0
    with contextlib.suppress(ForkRefused):
        while generations < 40:
            copy = await repl.fork(no_tools, seed=generations)
            await repl.close()
            repl, generations = copy, generations + 1
    with pytest.raises(ForkRefused, match="no deeper"):
        await repl.fork(no_tools, seed=0)
    assert 15 < generations < 40
    assert await value(repl, "6 * 7") == "42"
    await repl.close()


async def test_a_repl_that_is_copied_again_and_again_reaches_an_end_too(pool: LocalPool) -> None:
    gone = await pool.open((), no_tools, seed=0)
    await gone.close()
    before = counts()
    repl = await pool.open((), no_tools, seed=0)
    copies = 0
    with contextlib.suppress(ForkRefused):
        while copies < 40:
            await (await repl.fork(no_tools, seed=copies)).close()
            copies += 1
    with pytest.raises(ForkRefused, match="no deeper"):
        await repl.fork(no_tools, seed=0)
    assert 15 < copies < 40
    assert await value(repl, "6 * 7") == "42"
    await repl.close()
    await settled(before)
