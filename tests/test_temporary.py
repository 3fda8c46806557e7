"""Temporary directories are removed when their owner on this machine has ended, and not before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lzero.launch import PYTHON, Program
from lzero.launch.local import LocalLauncher
from lzero.temporary import NEW_S, OwnedDirectory, machine, sweep

PREFIX = "lzero-rank-"
KILLED = """
import os, signal, sys
from pathlib import Path
from lzero.temporary import OwnedDirectory
owned = OwnedDirectory("lzero-rank-", Path(sys.argv[1]))
(owned.path / "log").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_a_killed_process(place: Path) -> Path:
    """Return a directory whose owner was killed some time ago."""
    before = set(place.iterdir())
    subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False)
    (left,) = set(place.iterdir()) - before
    return aged(left)


def aged(directory: Path) -> Path:
    past = directory.stat().st_mtime - 2 * NEW_S
    os.utime(directory, (past, past))
    return directory


def test_what_a_killed_process_left_is_removed_and_what_somebody_owns_is_not(tmp_path: Path) -> None:
    left, owned = left_by_a_killed_process(tmp_path), OwnedDirectory(PREFIX, tmp_path)
    aged(owned.path)
    sweep(PREFIX, tmp_path)
    assert not left.exists()
    assert owned.path.exists()
    owned.remove()
    owned.remove()
    assert not owned.path.exists()


def test_directories_of_other_machines_and_new_ones_stay(tmp_path: Path) -> None:
    """A shared file system may have no locks that other machines see."""
    left = left_by_a_killed_process(tmp_path)
    elsewhere = left.rename(left.with_name(left.name.replace(machine(), "0badcafe")))
    new = tmp_path / f"{PREFIX}{machine()}-new"
    new.mkdir()
    sweep(PREFIX, tmp_path)
    assert elsewhere.exists()
    assert new.exists()


async def test_a_launcher_removes_what_killed_runs_have_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = left_by_a_killed_process(tmp_path)
    async with LocalLauncher() as launcher:
        running = await launcher.launch(Program(name="rank 1", role="rank", command=(PYTHON, "-c", "")))
        assert not left.exists()
        assert await running.ended() == "ended with code 0"
    assert not list(tmp_path.iterdir())
