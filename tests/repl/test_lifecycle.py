"""Nothing is left behind, whoever dies; one session's end is nobody else's."""

import asyncio
import os
import struct
from pathlib import Path

import psutil
import pytest
from fault_traces import below, descriptors_left, jails, sessions, traces, until, works, zygotes
from repl_sessions import no_tools

from lzero.config import ReplConfig
from lzero.errors import ReplDied, ReplError, SandboxError
from lzero.repl import LocalPool, zygote_handle
from lzero.types import Json, Result

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("own_temporary_directory"),
]


async def test_close_leaves_no_process_descriptor_or_mount() -> None:
    before = traces()
    pool = LocalPool()
    await pool.start()
    repls = [await pool.open((), no_tools, seed=n) for n in range(5)]
    await repls[0].run(
        "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)", deadline_s=20.0
    )
    assert below()
    await pool.close()
    await pool.close()
    assert traces() == before
    with pytest.raises(ReplDied):
        await repls[0].run("1", deadline_s=5.0)
    with pytest.raises(ReplError, match="closed"):
        await pool.open((), no_tools, seed=0)


async def test_ctrl_c_in_a_terminal_reaches_no_sandbox(pool: LocalPool) -> None:
    assert len(zygotes()) == 1
    (jail,) = jails()
    assert os.getpgrp() not in {
        os.getpgid(process.pid) for process in (jail, *below(jail))
    }  # it goes to a process group


async def test_a_hundred_sessions_at_once() -> None:
    async with LocalPool() as pool:

        async def one(number: int) -> Json:
            repl = await pool.open((), no_tools, seed=number)
            await repl.run(f"x = {number}", deadline_s=60.0)
            execution = await repl.run("x", deadline_s=60.0)
            await repl.close()
            assert isinstance(execution.outputs[0], Result)
            return int(execution.outputs[0].data["text/plain"])

        assert await asyncio.gather(*(one(number) for number in range(100))) == list(range(100))
        assert pool.stats()["open"] == 0
        assert pool.stats()["zygotes"] <= 2  # so many at once are worth another one


async def test_grandchildren_die_with_their_session(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    code = (
        "import os, time\nfor _ in range(5):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
    )
    code += "            os.closerange(0, 100)\n            time.sleep(1000)\n        os._exit(0)\n"
    idle = len(below())
    await repl.run(code, deadline_s=20.0)
    await until(lambda: len(below()) >= idle + 5)
    await repl.close()
    assert len(below()) < idle


async def test_a_zygote_that_hangs_is_ended_and_started_anew(pool: LocalPool, monkeypatch: pytest.MonkeyPatch) -> None:
    repl = await pool.open((), no_tools, seed=0)
    monkeypatch.setattr(zygote_handle, "_ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(zygote_handle, "_STOP_TIMEOUT_S", 0.2)
    zygotes()[0].suspend()
    with pytest.raises(ReplDied, match="did not answer"):
        await asyncio.wait_for(repl.run("import time\ntime.sleep(60)", deadline_s=0.1), 20.0)
    monkeypatch.undo()
    await repl.close()
    fresh = await asyncio.wait_for(pool.open((), no_tools, seed=0), 60.0)
    assert await works(fresh)
    await fresh.close()


async def test_no_descriptor_left_is_our_failure(pool: LocalPool) -> None:
    with descriptors_left(0), pytest.raises(ReplError, match="ulimit"):
        await pool.open((), no_tools, seed=0)
    repl = await pool.open((), no_tools, seed=0)
    await repl.close()


async def test_a_cancelled_cell_ends_its_session_only(pool: LocalPool) -> None:
    first, second = [await pool.open((), no_tools, seed=n) for n in range(2)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first.run("import time\ntime.sleep(60)", deadline_s=60.0), 0.2)
    with pytest.raises(ReplDied, match="abandoned"):
        await first.run("1", deadline_s=5.0)
    await first.close()
    assert await works(second)
    await second.close()


async def test_a_cancelled_open_leaves_nothing(pool: LocalPool) -> None:
    for delay in (0.0, 0.001, 0.003, 0.006):
        try:
            repl = await asyncio.wait_for(pool.open((), no_tools, seed=0), delay)
        except TimeoutError:
            continue
        await repl.close()
    await until(lambda: not sessions())
    assert pool.stats()["open"] == 0


FORGERIES = {
    "garbage": b"\xff\xfe garbage that is no frame",
    "negative length": struct.pack(">i", -1) + b"x",
    "huge length": struct.pack(">I", 2**31) + b"x",
    "empty": struct.pack(">I", 0),
    "not utf-8": struct.pack(">I", 4) + b'"\xff\xff"',
    "deep": struct.pack(">I", 200_000) + b"[" * 200_000,
    "unknown type": struct.pack(">I", 15) + b'{"type":"rule"}',
    "unknown field": struct.pack(">I", 26) + b'{"type":"ready","extra":1}',
    "early done": struct.pack(">I", 52) + b'{"type":"done","id":999,"status":"ok","outputs":[]} ',
    "ready again": struct.pack(">I", 16) + b'{"type":"ready"}',
    "forged call": struct.pack(">I", 56) + b'{"type":"call","id":77,"name":"search","arguments":{}}  ',
}


async def test_a_forged_frame_harms_its_own_session_only(pool: LocalPool) -> None:
    other = await pool.open((), no_tools, seed=0)

    async def forge(frame: bytes) -> str:
        victim = await pool.open((), no_tools, seed=1)
        code = f"import socket, time\nsocket.socket(fileno=3).sendall({frame!r})\ntime.sleep(60)"
        execution = await asyncio.wait_for(victim.run(code, deadline_s=1.0), 60.0)
        await victim.close()
        return execution.status

    ends = await asyncio.gather(*map(forge, FORGERIES.values()))
    assert dict(zip(FORGERIES, ends, strict=True)) == dict.fromkeys(FORGERIES, "killed")
    assert await works(other)
    await other.close()


async def test_a_flood_of_frames_is_bounded(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    code = "import socket\ns = socket.socket(fileno=3)\nwhile True: s.sendall(b'\\x00\\x7f\\xff\\xff' + b' ' * 8388607)"
    before = psutil.Process().memory_info().rss
    execution = await asyncio.wait_for(repl.run(code, deadline_s=2.0), 30.0)
    assert execution.status == "killed"
    assert psutil.Process().memory_info().rss - before < 100 << 20
    await repl.close()


async def test_a_missing_environment_says_how_to_make_it(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("here already")
    with pytest.raises(SandboxError, match=str(tmp_path)):
        await LocalPool(ReplConfig(environment=str(tmp_path))).start()


async def test_a_missing_bubblewrap_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("unshare", "setpriv"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="bubblewrap"):
        await LocalPool().start()


async def test_a_machine_that_forbids_namespaces_says_so(
    monkeypatch: pytest.MonkeyPatch, public_directory: Path
) -> None:
    fake = public_directory / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{public_directory}:{os.environ['PATH']}")
    with pytest.raises(SandboxError, match="forbids user namespaces"):
        await LocalPool().start()
