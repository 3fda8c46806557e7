"""Files go in and out of a REPL through the protocol, and only as the asker is allowed to."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Coroutine

import pytest
from repl_sessions import no_tools, run, value

from lzero.config import ReplConfig
from lzero.errors import ReplDied, WorkspaceError
from lzero.repl import LocalPool, LocalRepl
from lzero.repl.wire import CHUNK_BYTES
from lzero.types import WorkspaceFile

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


async def test_a_file_goes_in_and_comes_out_as_it_was(repl: LocalRepl) -> None:
    await repl.put("data/2026/table.csv", b"a,b\n1,2\n")
    assert await value(repl, "import pandas\nint(pandas.read_csv('data/2026/table.csv').b[0])") == "2"
    await run(repl, "with open('/workspace/out.bin', 'wb') as file: n = file.write(bytes(range(256)))")
    assert await repl.get("out.bin") == bytes(range(256))
    assert await repl.files() == (
        WorkspaceFile(path="data/2026/table.csv", size=8),
        WorkspaceFile(path="out.bin", size=256),
    )
    assert await value(repl, "6 * 7") == "42"


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
async def test_files_of_any_size_within_the_limit(repl: LocalRepl, size: int) -> None:
    data = random.Random(size).randbytes(size)
    await repl.put("file", data)
    assert await value(repl, "import os\nos.path.getsize('file'), os.listdir()") == f"({size}, ['file'])"
    assert await repl.get("file") == data


async def test_files_go_in_before_the_first_cell_and_replace_what_was_there(repl: LocalRepl) -> None:
    assert await repl.files() == ()
    await repl.put("./notes//a.txt", b"first and long")
    await repl.put("notes/a.txt", b"second")
    assert await repl.get("notes/a.txt") == b"second"
    await run(repl, "import os\nos.symlink('notes/a.txt', 'link')")
    await repl.put("link", b"third")  # the link itself is replaced, not what it names
    assert await repl.get("notes/a.txt") == b"second"
    assert await repl.get("link") == b"third"


WRONG = {
    "nothing": ("", "names no file"),
    "the workspace itself": ("./", "names no file"),
    "up": ("..", "leaves the workspace"),
    "up and away": ("a/../../etc/passwd", "leaves the workspace"),
    "absolute": ("/etc/passwd", "leaves the workspace"),
    "absolute and within": ("/workspace/a", "leaves the workspace"),
    "a null byte": ("a\0b", "null byte"),
    "no Unicode": ("a\udcff", "valid Unicode"),
    "a path of 4 KB": ("/".join(["d" * 100] * 41), "limit is 1,024"),
    "a name of 256 bytes": ("n" * 256, "255 bytes"),
}


@pytest.mark.parametrize(("path", "why"), WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_path_is_the_askers_fault(repl: LocalRepl, path: str, why: str) -> None:
    with pytest.raises(WorkspaceError, match=why):
        await repl.put(path, b"x")
    with pytest.raises(WorkspaceError, match=why):
        await repl.get(path)
    assert await repl.files() == ()
    assert await value(repl, "6 * 7") == "42"


async def test_what_is_no_file_is_refused_by_name(repl: LocalRepl) -> None:
    await run(repl, "import os\nos.makedirs('directory/inner')\nopen('file', 'w').close()")
    for path, why in (("missing", "not there"), ("directory", "a directory"), ("file/below", "no directory")):
        with pytest.raises(WorkspaceError, match=f"'{path}': .*{why}"):
            await repl.get(path)
    for path, why in (("directory", "a directory"), ("file/below", "no directory")):
        with pytest.raises(WorkspaceError, match=why):
            await repl.put(path, b"x" * (CHUNK_BYTES + 1))
    assert await value(repl, "sorted(os.listdir()), os.listdir('directory')") == "(['directory', 'file'], ['inner'])"


async def test_limits_of_size_and_number_and_of_the_workspace() -> None:
    async with LocalPool(ReplConfig(file_mb=1, transfers=6, disk_mb=2, files=64)) as pool:
        repl = await pool.open((), no_tools, seed=0)
        megabyte = os.urandom(1 << 20)
        await repl.put("one", megabyte)
        with pytest.raises(WorkspaceError, match=r"1,048,577 bytes exceed the limit of 1,048,576 .*repl\.file_mb"):
            await repl.put("large", megabyte + b"x")
        await run(repl, "import os\nwith open('one', 'ab') as file: n = file.write(bytes(1 << 19))")
        with pytest.raises(WorkspaceError, match=r"'one': the file exceeds the limit .*repl\.file_mb"):
            await repl.get("one")
        with pytest.raises(WorkspaceError, match=r"full .*repl\.disk_mb"):
            await repl.put("two", megabyte)
        assert [file.path for file in await repl.files()] == ["one"]  # nothing half-written is left
        await run(repl, "os.remove('one')")
        await repl.put("two", megabyte)
        await run(repl, "for n in range(100): open(str(n), 'w').close()")
        with pytest.raises(WorkspaceError, match=r"full .*repl\.files"):
            await repl.put("three", b"")
        assert await repl.get("two") == megabyte
        with pytest.raises(WorkspaceError, match=r"6 files were copied .*repl\.transfers"):
            await repl.get("two")
        assert await value(repl, "6 * 7") == "42"
        await repl.close()


async def test_a_session_that_is_gone_carries_nothing(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    await repl.put("file", b"x")
    await repl.close()
    for attempt in (repl.put("file", b"x"), repl.get("file"), repl.files()):
        with pytest.raises(ReplDied, match="closed"):
            await attempt
    repl = await pool.open((), no_tools, seed=0)
    await run(repl, "import os, _inside_workspace as workspace\nworkspace.serve = lambda *_: os._exit(3)")
    with pytest.raises(ReplDied, match="exited with code 3"):
        await repl.get("file")
    with pytest.raises(ReplDied, match="exited with code 3"):
        await run(repl, "1")
    await repl.close()


SLOW = "import time, _inside_workspace as workspace\nworkspace.serve = lambda message, channel: time.sleep(600)"


ENDS: dict[str, Callable[[LocalRepl], Awaitable[None]]] = {
    "SIGKILL": lambda repl: repl.close(),
    "memory: too much": lambda repl: repl.kill("memory: too much"),
    "too old": lambda repl: repl.expire("too old"),
}
TRANSFERS: tuple[Callable[[LocalRepl], Coroutine[None, None, object]], ...] = (
    lambda repl: repl.get("file"),
    lambda repl: repl.put("file", bytes(4 << 20)),
)


@pytest.mark.parametrize("why", ENDS)
async def test_a_transfer_ends_with_its_session(pool: LocalPool, why: str) -> None:
    for transfer in TRANSFERS:
        repl = await pool.open((), no_tools, seed=0)
        await run(repl, SLOW)
        waiting = asyncio.create_task(transfer(repl))
        await asyncio.sleep(0)
        await ENDS[why](repl)
        with pytest.raises(ReplDied, match=why):
            await waiting
        await repl.close()


async def test_a_transfer_that_is_cancelled_ends_its_repl(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    await run(repl, SLOW)
    waiting = asyncio.create_task(repl.get("file"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(ReplDied, match="abandoned"):
        await run(repl, "1")
    await repl.close()


async def test_files_of_many_repls_go_at_once(pool: LocalPool) -> None:
    repls = await asyncio.gather(*(pool.open((), no_tools, seed=0) for _ in range(8)))
    data = [random.Random(number).randbytes(2 * CHUNK_BYTES + number) for number in range(8)]
    await asyncio.gather(*(repl.put("file", each) for repl, each in zip(repls, data, strict=True)))
    assert list(await asyncio.gather(*(repl.get("file") for repl in repls))) == data
    await asyncio.gather(*(repl.close() for repl in repls))
