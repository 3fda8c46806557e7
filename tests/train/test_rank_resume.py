"""SIGKILL of a rank, and of rank 0, in a run of two: a typed end, and the run that resumes ends as the one that was left alone."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from whole_runs import checkpoint_files, metrics, tables, untimed_episodes, untimed_metrics

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]
SETTINGS = (
    "run.deterministic=true",
    "train.ranks=2",
    "train.updates=2",
    "train.checkpoint_every=1",
    "rollout.tasks_per_update=2",
    "rollout.episodes_per_task=2",
    "rollout.max_refills=1",
    "eval.num_tasks=2",
    "eval.every=1",
    "agent.max_steps=2",
    "repl.zygotes=1",
)
DEADLINE_S = 1200.0
END_S = 60.0
"""Seconds within which a run ends that has lost a rank."""


@contextmanager
def training(*arguments: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `lzero train` with these arguments, and kill it in the end."""
    command = (sys.executable, "-c", "import sys; from lzero.cli import main; sys.exit(main())", "train", *arguments)
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def to_its_end(*arguments: str, log: Path) -> None:
    with training(*arguments, log=log) as process:
        assert process.wait(DEADLINE_S) == 0, log.read_text()[-3000:]


def second_rank(process: "subprocess.Popen[bytes]") -> psutil.Process | None:
    children = psutil.Process(process.pid).children(recursive=True)
    return next((child for child in children if "lzero.train.ranks" in child.cmdline()), None)


def wait_until(there: Callable[[], object], process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + DEADLINE_S
    while not there():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.timeout(8 * DEADLINE_S)
def test_a_run_that_lost_a_rank_and_then_rank_0_ends_as_if_it_had_not(tmp_path: Path) -> None:
    alone, run, log = tmp_path / "alone", tmp_path / "run", tmp_path / "log"
    to_its_end(*SETTINGS, f"run.dir={alone}", log=log)
    assert len(list((alone / "checkpoints" / "update-000002" / "trainer").iterdir())) == 2

    with training(*SETTINGS, f"run.dir={run}", log=log) as process:
        wait_until((run / "checkpoints" / "update-000001").exists, process, log)
        other = second_rank(process)
        assert other is not None
        other.kill()
        assert process.wait(END_S) == 1
    assert "rank 1 was killed by SIGKILL" in " ".join(log.read_text().split())

    with training("--resume", str(run), log=log) as process:
        wait_until(lambda: sum(line["phase"] == "train" for line in metrics(run)) == 2, process, log)
        other = second_rank(process)
        assert other is not None
        process.send_signal(signal.SIGKILL)
        other.wait(END_S)

    to_its_end("--resume", str(run), log=log)
    assert untimed_metrics(run) == untimed_metrics(alone)
    assert untimed_episodes(run) == untimed_episodes(alone)
    assert tables(run) == tables(alone)
    assert checkpoint_files(run) == checkpoint_files(alone)

    to_its_end("--resume", str(run), "train.ranks=1", "train.updates=3", log=log)
    assert (run / "checkpoints" / "update-000003" / "trainer.safetensors").is_file()
