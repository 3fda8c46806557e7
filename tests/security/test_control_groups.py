"""Control groups: what the kernel bounds where it lets us, and that nothing of it is left."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cases import attack
from fault_traces import children_of, num_pids
from repl_sessions import no_tools, run, value

from lzero.config import ReplConfig
from lzero.errors import ReplDied, SandboxError
from lzero.repl import LocalPool, LocalRepl, cgroups, processes, unbounded, watchdog
from lzero.repl.jail import Limits

pytestmark = pytest.mark.sandbox


def _why_not() -> str:
    try:
        cgroups.find(cores=1.0).prove()
    except SandboxError as error:
        return str(error)
    return ""


GROUPS = pytest.mark.skipif(bool(why := _why_not()), reason=f"no control groups: {why}")
ON = ReplConfig(cgroups="on")
HOARD = """
import os
end, other_end = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        os.close(other_end)
        held = bytearray(100 << 20)
        os.read(end, 1)
        os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == -9
os.close(other_end)
"""


def of_this_host() -> list[Path]:
    """Return the existing groups that this process has made."""
    return [path for place in cgroups.find().places.values() for path in place.glob(f"lzero-{os.getpid()}-*")]


@GROUPS
@attack(4)
async def test_memory_is_bounded_before_the_watchdog_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "INTERVAL_S", 3600.0)
    limits = Limits(memory_bytes=256 << 20, disk_bytes=16 << 20)
    async with LocalPool(ON, limits=limits) as pool:
        repl, sibling = [await pool.open((), no_tools, seed=number) for number in range(2)]
        assert (await run(repl, HOARD)).status == "ok"  # one of its children went, and it did not notice
        assert repl.objection().startswith("memory: its processes and workspace together reached 272 MB")
        assert sibling.objection() == ""
        assert await value(sibling, "6 * 7") == "42"


@GROUPS
@attack(5)
async def test_memory_that_belongs_to_no_process_is_counted_by_the_group() -> None:
    limits = Limits(memory_bytes=128 << 20, disk_bytes=64 << 20)
    async with LocalPool(ON, limits=limits, without=("seccomp",)) as pool:
        repl = await pool.open((), no_tools, seed=0)
        code = "import os\nfor number in range(40): os.write(os.memfd_create('hoard'), bytes(8 << 20))"
        execution = await repl.run(code, deadline_s=20.0)
        assert (execution.status, execution.reason.partition(":")[0]) == ("killed", "memory"), execution


@GROUPS
@attack(11)
async def test_a_bound_on_cores_is_kept() -> None:
    code = "import time\nstarted = time.monotonic()\nwhile time.process_time() < 0.3: pass\ntime.monotonic() - started"
    async with LocalPool(ReplConfig(cores=0.2)) as pool:
        repl = await pool.open((), no_tools, seed=0)
        assert float(await value(repl, code)) > 0.3 / 0.2 * 0.6


@GROUPS
async def test_a_full_workspace_alone_ends_no_session() -> None:
    limits = Limits(memory_bytes=512 << 20, disk_bytes=256 << 20)
    code = "try:\n    with open('full', 'wb') as file:\n        while True: file.write(bytes(1 << 20))\nexcept OSError as e: print(e.errno)"
    async with LocalPool(ON, limits=limits) as pool:
        repl = await pool.open((), no_tools, seed=0)
        assert (await run(repl, code)).status == "ok"
        assert await value(repl, "6 * 7") == "42"


@GROUPS
async def test_every_process_of_a_session_is_in_its_group_and_the_group_goes_with_it() -> None:
    async with LocalPool(ON) as pool:
        before = of_this_host()
        repl = await pool.open((), no_tools, seed=0)
        await run(repl, "import subprocess\nchild = subprocess.Popen(['sleep', '100'], start_new_session=True)")
        assert repl.group is not None
        assert repl.group.pids() == set(processes.tree(repl.host_pids[:1]))
        assert len(of_this_host()) > len(before)
        await repl.close()
        assert of_this_host() == before
    assert of_this_host() == []


@GROUPS
async def test_a_session_whose_group_is_taken_away_ends() -> None:
    async with LocalPool(ON) as pool:
        repl, other = [await pool.open((), no_tools, seed=number) for number in range(2)]
        assert repl.group is not None
        for directory in repl.group.directories:
            for pid in (directory / "cgroup.procs").read_text().split():
                (directory.parent / "cgroup.procs").write_text(pid)
            directory.rmdir()
        execution = await repl.run("import time\ntime.sleep(60)", deadline_s=50.0)
        assert (execution.status, execution.reason) == ("killed", "memory: the control group that bounds it is gone")
        assert await value(other, "6 * 7") == "42"


@GROUPS
@attack(64)
async def test_groups_of_a_killed_host_go_with_the_next_start() -> None:
    code = """
import asyncio, os, signal
from lzero.config import ReplConfig
from lzero.repl import LocalPool
async def main():
    pool = LocalPool(ReplConfig(cgroups="on"))
    await pool.start()
    await pool.open((), None, seed=0)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code]) as host:
        assert await asyncio.to_thread(host.wait, 60) == -signal.SIGKILL
    places = cgroups.find().places.values()
    deadline = time.monotonic() + 30.0
    while left := [path for place in places for path in place.glob(f"lzero-{host.pid}-*")]:
        assert time.monotonic() < deadline, left
        async with LocalPool(ON):  # its start removes them, as soon as their processes are gone
            pass


@GROUPS
@attack(64)
async def test_a_zygote_that_is_killed_in_the_middle_of_a_copy_leaves_this_process_in_its_group() -> None:
    """The copy never had a pid; to the kernel the pid 0 is whoever writes it."""
    before = Path("/proc/self/cgroup").read_text()
    async with LocalPool(ON) as pool:
        original = await pool.open((), no_tools, seed=0)
        zygote = psutil.Process(original.host_pids[0]).parent()
        assert zygote is not None
        maker = next(each for each in children_of(zygote) if num_pids(each) == num_pids(zygote))
        maker.suspend()
        descriptors = zygote.num_fds()
        forking = asyncio.create_task(original.fork(no_tools, seed=1))
        async with asyncio.timeout(20.0):
            while zygote.num_fds() == descriptors:  # until it has asked the maker
                await asyncio.sleep(0)
        zygote.kill()
        with pytest.raises(ReplDied):
            await forking
        assert Path("/proc/self/cgroup").read_text() == before
    assert of_this_host() == []


@GROUPS
@attack(64)
async def test_groups_of_a_killed_zygote_go_with_the_pool() -> None:
    async with LocalPool(ON) as pool:
        repls = [await pool.open((), no_tools, seed=number) for number in range(5)]
        for process in psutil.Process().children():
            if process.name() == "bwrap":
                process.kill()
        for repl in repls:
            await repl.close()
    assert of_this_host() == []


@GROUPS
async def test_opening_that_is_cancelled_leaves_no_group() -> None:
    async with LocalPool(ON) as pool:
        for delay in (0.0, 0.001, 0.003, 0.006, 0.012):
            try:
                repl: LocalRepl = await asyncio.wait_for(pool.open((), no_tools, seed=0), delay)
            except TimeoutError:
                continue
            await repl.close()
        repl = await pool.open((), no_tools, seed=0)
        assert await value(repl, "6 * 7") == "42"
        await repl.close()
    assert of_this_host() == []


NAMED = ("memory that the kernel keeps", "between two looks", "the share of the processors", "-p Delegate=yes")


@attack(78)
def test_a_pool_without_groups_warns_once_and_names_what_is_not_bounded(caplog: pytest.LogCaptureFixture) -> None:
    assert cgroups.open_groups(ReplConfig(cgroups="off")) is None
    (warning,) = caplog.messages
    assert warning.startswith("repl.cgroups is 'off'. Without control groups")
    assert all(part in warning for part in NAMED)


@attack(78)
async def test_the_record_names_what_is_not_bounded() -> None:
    async with LocalPool(ReplConfig(cgroups="off")) as pool:
        assert all(each.part in str(pool.facts()["unbounded"]) for each in unbounded.WITHOUT_GROUPS)


@attack(78)
def test_the_list_names_what_control_groups_do_not_bound_either() -> None:
    assert unbounded.PROGRAMS in unbounded.unbounded(groups=True)
    assert unbounded.PROGRAMS not in unbounded.unbounded(groups=False)


@attack(78)
def test_a_run_says_it_once(tmp_path: Path) -> None:
    program = (sys.executable, "-c", "from lzero.cli import main; main()")
    command = [*program, "eval", "engine.kind=scripted", "engine.policy=expert", "eval.num_tasks=2", "repl.cgroups=off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path)
    assert (done.stdout + done.stderr).count("Without control groups") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@attack(78)
@pytest.mark.parametrize("key", ["repl.cores = 1", "repl.cgroups is 'on'"])
async def test_where_no_group_may_be_made_asking_for_one_is_an_error(key: str) -> None:
    config = "cores=1.0" if "cores" in key else 'cgroups="on"'
    code = f"""
import os
from lzero.config import ReplConfig
from lzero.errors import ReplDied, SandboxError
from lzero.repl import cgroups
assert cgroups.open_groups(ReplConfig()) is not None
os.setuid(65534)
assert cgroups.open_groups(ReplConfig()) is None
try:
    cgroups.open_groups(ReplConfig({config}))
except SandboxError as error:
    print(error)
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(key)
    assert "cores" in key or all(part in done.stdout for part in NAMED)


def test_cores_without_groups_is_an_error() -> None:
    with pytest.raises(SandboxError, match=r"repl\.cores = 0\.5 needs control groups, and repl\.cgroups is 'off'"):
        cgroups.open_groups(ReplConfig(cgroups="off", cores=0.5))
