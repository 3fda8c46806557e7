"""Faults: whatever dies or runs out, all ends, nothing is left, nothing runs outside of its jail, and the next one starts."""

import asyncio
import contextlib
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cases import attack
from fault_traces import INSIDE, SHUT_IN, alive, below, jails, output_of_host, traces, until, works, zygotes
from repl_sessions import Spec, no_tools, run, value

from lzero.config import ReplConfig
from lzero.errors import ReplDied, ReplError, SandboxError
from lzero.repl import Limits, LocalPool

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("own_temporary_directory")]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the fault")


@pytest.mark.parametrize("victim", ["zygote", "jail"])
@attack(64)
async def test_all_sessions_end_with_their_zygote_and_the_next_one_starts(victim: str) -> None:
    before, others = traces(), below()
    async with LocalPool() as pool:
        idle, busy = [await pool.open((), no_tools, seed=number) for number in range(2)]
        started = [process for process in below() if process not in others]
        running = asyncio.create_task(busy.run("import time\ntime.sleep(60)", deadline_s=60.0))
        await asyncio.sleep(0)
        (zygotes() if victim == "zygote" else jails())[0].kill()
        with pytest.raises(ReplDied, match="zygote"):
            await asyncio.wait_for(running, 20.0)
        with pytest.raises(ReplDied):
            await asyncio.wait_for(idle.run("1", deadline_s=5.0), 20.0)
        await idle.close()
        await busy.close()
        fresh = await asyncio.wait_for(pool.open((), no_tools, seed=0), 60.0)
        assert await value(fresh, INSIDE) == SHUT_IN
        assert pool.stats()["zygotes"] == 2
        await until(lambda: not any(alive(process.pid) for process in started))
    assert traces() == before


@attack(64)
async def test_all_sessions_end_with_the_host() -> None:
    code = """
import asyncio, os, signal, psutil
from lzero.repl import LocalPool
async def main():
    pool = LocalPool()
    await pool.start()
    repls = [await pool.open((), None, seed=n) for n in range(3)]
    for repl in repls:
        await repl.run("import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)", deadline_s=20.0)
    print(*(process.pid for process in psutil.Process().children(recursive=True)), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    before = traces()
    pids = [int(pid) for pid in (await output_of_host(code)).split()]
    assert len(pids) >= 8  # the jail, its zygote, three sessions and what they started
    await until(lambda: not any(alive(pid) for pid in pids))
    assert traces() == before


@attack(66)
async def test_a_session_killed_at_any_moment_of_its_start() -> None:
    moments = random.Random(66)
    before = traces()
    outcomes: list[str] = []
    async with LocalPool() as pool:
        survivor = await pool.open((), no_tools, seed=0)
        (zygote,) = zygotes()
        known = {process.pid for process in zygote.children()}
        idle = traces()
        for number in range(20):
            opening = asyncio.create_task(pool.open((), no_tools, seed=number))
            born: list[psutil.Process] = []
            while not born and not opening.done():
                await asyncio.sleep(0)
                born = [process for process in zygote.children() if process.pid not in known]
            end = time.monotonic() + moments.uniform(0.0, 0.012)
            while time.monotonic() < end:
                await asyncio.sleep(0)
            for process in born:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            try:
                repl = await asyncio.wait_for(opening, 20.0)
                execution = await repl.run(INSIDE, deadline_s=20.0)
                outcomes.append(execution.status)
                assert execution.status == "killed" or SHUT_IN in str(execution.outputs)
                await repl.close()
            except ReplError as error:
                outcomes.append(type(error).__name__)
        assert set(outcomes) <= {"ReplDied", "SandboxError", "killed", "ok"}, outcomes
        assert "ReplDied" in outcomes  # some of them did come in the middle
        assert await works(survivor)
        assert pool.stats()["open"] == 1
        assert traces() == idle
    assert traces() == before


@attack(66)
async def test_a_jail_killed_at_any_moment_of_its_start() -> None:
    moments = random.Random(66)
    before = traces()
    failures = 0
    for _ in range(5):
        pool = LocalPool()
        starting = asyncio.create_task(pool.start())
        await asyncio.wait({starting}, timeout=moments.uniform(0.0, 0.9))
        # Only what is the jail's: the question to the kernel environment's Python comes before it.
        for process in [each for each in below() if each.pid not in before.processes]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        try:
            await asyncio.wait_for(starting, 60.0)
            repl = await pool.open((), no_tools, seed=0)
            assert await value(repl, INSIDE) == SHUT_IN
        except ReplError:
            failures += 1
        finally:
            await pool.close()
        assert traces() == before
    assert failures > 0


@pytest.mark.parametrize(
    ("limits", "step"),
    [
        (Limits(files=-1), "mount"),
        (Limits(processes=-5), "limit"),
        (Limits(open_files=1 << 40), "limit"),
    ],
)
@attack(66)
async def test_a_step_of_the_start_that_fails_lets_nothing_run(limits: Limits, step: str) -> None:
    before = traces()
    with pytest.raises(SandboxError, match="could not be shut in") as failed:
        await LocalPool(limits=limits).start()
    assert step in str(failed.value)
    assert traces() == before


async def in_a_process(code: str, *before: str, timeout: float = 60.0) -> str:
    """Return the output of a Python program that runs at low priority in a separate process."""
    done = await asyncio.to_thread(
        subprocess.run,
        [*before, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@AS_ROOT
@attack(67)
async def test_without_space_nothing_starts_and_the_others_go_on(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, tempfile
from lzero.errors import SandboxError
from lzero.repl import LocalPool
async def main():
    async with LocalPool() as pool:
        repl = await pool.open((), None, seed=0)
        tempfile.tempdir = {str(tmp_path)!r}
        before = len(os.listdir("/proc/self/fd"))
        try: await LocalPool().start()
        except SandboxError as error: print(error)
        print(len(os.listdir("/proc/self/fd")) == before)
        fresh = await pool.open((), None, seed=0)
        print([(await each.run("6 * 7", deadline_s=20.0)).outputs[0].data["text/plain"] for each in (repl, fresh)])
asyncio.run(main())
"""
    mount = 'mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs "$0" && exec "$@"'
    said = await in_a_process(code, "unshare", "--mount", "--propagation", "private", "sh", "-c", mount, str(tmp_path))
    error, *rest = said.splitlines()
    assert "No space left on device" in error
    assert rest == ["True", "['42', '42']"]


START = """
import asyncio
from lzero.errors import SandboxError
from lzero.repl import LocalPool
try: asyncio.run(LocalPool().start())
except SandboxError as error: print(error)
else: print("it started")
"""


@attack(68)
async def test_a_machine_that_allows_no_user_namespace_is_refused_with_what_to_do() -> None:
    # A user namespace of our own, in which there may be one more, and that is where an ordinary user runs.
    inner = 'echo 1 > /proc/sys/user/max_user_namespaces && exec unshare --user --map-user=1000 "$@"'
    said = await in_a_process(START, "unshare", "--user", "--map-root-user", "sh", "-c", inner, "sh")
    assert "the sandbox did not start" in said
    assert "sysctl user.max_user_namespaces" in said
    assert "There is no fallback to anything weaker" in said


@attack(68)
async def test_a_machine_with_root_alone_is_refused_with_what_to_do() -> None:
    said = await in_a_process(START, "unshare", "--user", "--map-root-user")
    assert "run lzero as an ordinary user" in said
    assert "There is no fallback to anything weaker" in said


@AS_ROOT
@attack(68)
async def test_a_container_that_masks_proc_is_refused_with_what_to_do() -> None:
    mask = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
    said = await in_a_process(START, "unshare", "--mount", "--propagation", "private", "sh", "-c", mask, "sh")
    assert "--security-opt systempaths=unconfined" in said
    assert "There is no fallback to anything weaker" in said


@AS_ROOT
@attack(68)
async def test_the_root_of_a_container_needs_no_mounts_or_is_told_what_to_do() -> None:
    said = await in_a_process(START, "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    assert "it started" in said or "has to be able to read the kernel environment" in said


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the test are those of x86-64")
@attack(68)
async def test_a_machine_that_takes_no_filter_is_refused() -> None:
    # A filter of the test's own that answers EINVAL to seccomp(2) and prctl(PR_SET_SECCOMP), like a kernel without them.
    steps = (
        (0x20, 0, 0, 0),
        (0x15, 3, 0, 317),
        (0x15, 0, 3, 157),
        (0x20, 0, 0, 16),
        (0x15, 0, 1, 22),
        (0x06, 0, 0, 0x00050000 | 22),
        (0x06, 0, 0, 0x7FFF0000),
    )
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    prepare = f"""
import ctypes, struct
code = ctypes.create_string_buffer({program!r}, {len(program)})
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program({len(steps)}, ctypes.cast(code, ctypes.c_void_p))), 0, 0) == 0
assert libc.prctl(22, 2, None, 0, 0) == -1
"""
    said = await in_a_process(prepare + START)
    assert "could not be shut in" in said
    assert "it started" not in said


@attack(69)
async def test_many_at_once_in_rounds_leave_nothing_that_grows() -> None:
    before = traces()
    async with LocalPool(ReplConfig(zygotes=1)) as pool:

        async def one(number: int) -> str:
            repl = await pool.open((), no_tools, seed=number)
            shown = await value(repl, f"{number}")
            await repl.close()
            return shown

        async def round_of(count: int) -> None:
            assert await asyncio.gather(*map(one, range(count))) == [str(number) for number in range(count)]

        await round_of(60)
        (zygote,) = zygotes()
        idle, rss = traces(), zygote.memory_info().rss
        held = len(os.listdir(f"/proc/{zygote.pid}/fd"))
        for _ in range(2):
            await round_of(60)
            assert traces() == idle
            assert len(os.listdir(f"/proc/{zygote.pid}/fd")) == held
            assert zygote.memory_info().rss - rss < 8 << 20
            assert pool.stats()["open"] == 0
        assert pool.stats()["zygotes"] == 1
    assert traces() == before


@attack(71)
async def test_the_zygote_is_single_and_leaves_nothing_to_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LZERO_TEST_API_KEY", "not to be seen")
    async with LocalPool() as pool:
        first = await pool.open([Spec("lookup_marker_one", ("query",))], no_tools, seed=0)
        await run(first, "marker = 'said in another session'")
        (zygote,) = zygotes()
        assert zygote.num_threads() == 1
        assert "LZERO_TEST_API_KEY" not in Path(f"/proc/{zygote.pid}/environ").read_text(encoding="utf-8")
        kinds = [os.readlink(file).partition(":")[0] for file in Path(f"/proc/{zygote.pid}/fd").iterdir()]
        # the host's, one to the maker of copies, and a pair of its own that signals wake it by; none of a session
        assert kinds.count("socket") == 4
        assert not zygote.net_connections()
        second = await pool.open((), no_tools, seed=0)
        look = """
import gc, os, socket, threading
names = [name for name in ("lookup_marker_one", "marker") if name in globals()]
sockets = [os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in os.listdir("/proc/self/fd")
    if os.path.islink(f"/proc/self/fd/{n}")].count("socket")
texts = [each for each in gc.get_objects() if isinstance(each, dict) and "lookup_marker_one" in list(each)]
names, threading.active_count(), len(os.listdir("/proc/self/task")), sockets, len(texts), len(In), len(Out)
"""
        assert await value(second, look) == "([], 1, 1, 1, 0, 2, 0)"
        assert await value(second, "import os\n[name for name in os.environ if 'LZERO' in name]") == "[]"
