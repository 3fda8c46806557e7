"""Programs on this machine: how they start and end, and that nothing of them outlives lzero."""

import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lzero.errors import LaunchError
from lzero.launch import PYTHON, Program, Running, open_launcher
from lzero.launch.local import LocalProcess

pytestmark = pytest.mark.integration
SERVER = "import subprocess, time; subprocess.Popen(['sleep', '600']); print('both run', flush=True); time.sleep(600)"
"""A program that starts another one, as vLLM does. What it serves does not matter here."""
PIPED = "import subprocess, time; subprocess.Popen(['cat'], stdin=subprocess.PIPE); time.sleep(600)"
"""A program whose worker ends after it, as vLLM's do."""
SHARING = """
import os, signal, sys, time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    shared = SharedMemory(create=True, size=1_000)
    resource_tracker.unregister(shared._name, "shared_memory")
    print(f"shares {shared.name};", flush=True)
time.sleep(600)
"""
"""A program that ignores SIGTERM, and whose worker holds shared memory, which nobody else removes."""
HOST = """
import os, sys, time
from pathlib import Path
from lzero.launch.local import LocalProcess
process = LocalProcess(sys.argv[2:], environment=dict(os.environ), directory=Path(sys.argv[1]))
print(process.group, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("child_first", [False, True])
def test_nothing_of_a_server_outlives_a_host_that_is_killed(child_first: bool, tmp_path: Path) -> None:
    """Ray kills the children of a worker, too, before it notices that the worker is dead."""
    directory = tmp_path / "server"
    directory.mkdir()
    command = [sys.executable, "-c", HOST, str(directory), sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        group = int(host.stdout.readline())
        wait_until(lambda: "both run" in (directory / "log").read_text("utf-8"))
        assert len(members(group)) == 4  # the lifeline and its fork, the server, and what it started
        if child_first:
            os.kill(group, signal.SIGKILL)
        host.send_signal(signal.SIGKILL)
    wait_until(lambda: not members(group))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "kills", [3, pytest.param(90, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])], ids=["sample", "whole"]
)
def test_no_process_outlives_a_host_that_is_killed_at_any_moment(kills: int, tmp_path: Path) -> None:
    dice = random.Random(0)
    for number in range(kills):
        directory = tmp_path / str(number)
        directory.mkdir()
        command = [sys.executable, "-c", HOST, str(directory), sys.executable, "-c", PIPED]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as host:
            time.sleep(dice.uniform(0.0, 1.0))
            host.kill()
        wait_until(lambda directory=directory: not works_in(directory))  # type: ignore[misc]


async def test_shared_memory_of_processes_that_are_killed_is_removed(tmp_path: Path) -> None:
    process = LocalProcess([sys.executable, "-c", SHARING], environment=dict(os.environ), directory=tmp_path)
    wait_until(lambda: ";" in process.log.read_text("utf-8"))
    (name,) = re.findall("shares (.*);", process.log.read_text("utf-8"))
    assert Path("/dev/shm", name).exists()  # noqa: S108
    await process.kill()
    assert not Path("/dev/shm", name).exists()  # noqa: S108
    assert not members(process.group)


def works_in(directory: Path) -> list[psutil.Process]:
    """Return the processes that work in a directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(directory):
                found.append(process)
    return found


async def test_a_server_that_is_closed_leaves_no_process(tmp_path: Path) -> None:
    process = LocalProcess([sys.executable, "-c", SERVER], environment=dict(os.environ), directory=tmp_path)
    wait_until(lambda: "both run" in (tmp_path / "log").read_text("utf-8"))
    await process.end()
    await process.end()
    wait_until(lambda: not members(process.group))
    assert "both run" in process.log.read_text("utf-8")


def members(group: int) -> list[psutil.Process]:
    """Return the processes of a group that have not ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def program(code: str, **changes: object) -> Program:
    return Program(name="a program", role="rank", command=(PYTHON, "-c", code), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import os; print(os.environ['GREETING'])", "ended with code 0"),
        ("print('hello'); raise SystemExit(3)", "ended with code 3"),
        ("print('hello'); raise SystemExit(-1)", "ended with code 255"),
        (
            "import os, signal; print('hello', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
            "was killed by SIGKILL",
        ),
    ],
)
async def test_how_a_program_ended_and_what_it_wrote_is_known(code: str, cause: str) -> None:
    async with asyncio.timeout(60), open_launcher() as launcher:
        running: Running = await launcher.launch(program(code, variables={"GREETING": "hello"}))
        assert await running.ended() == running.end_cause() == cause
        assert await running.tail() == "hello"
        await running.kill()
        assert running.end_cause() == cause


async def test_a_launcher_that_closes_ends_its_programs_and_leaves_no_directory() -> None:
    async with open_launcher() as launcher:
        running = await launcher.launch(program("import time; time.sleep(600)"))
        assert isinstance(running, LocalProcess)
        assert (running.end_cause(), running.log.exists()) == ("", True)
        waiting = asyncio.create_task(running.ended())
        await asyncio.sleep(0)
    assert await waiting == running.end_cause() != ""
    assert not running.log.parent.exists()
    assert not members(running.group)


async def test_a_program_may_be_ended_and_killed_from_several_places_at_once() -> None:
    async with asyncio.timeout(120), open_launcher() as launcher:
        for _ in range(5):
            running = await launcher.launch(program("import time; time.sleep(600)"))
            await asyncio.gather(running.kill(), running.end(), running.end(), running.kill())
            assert running.end_cause()


async def test_a_program_whose_directory_is_missing_is_a_typed_error(tmp_path: Path) -> None:
    async with open_launcher() as launcher:
        with pytest.raises(LaunchError, match=r"cannot start .*: .*No such file"):
            await launcher.launch(program("", directory=tmp_path / "none"))
