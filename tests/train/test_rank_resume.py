"""SIGKILL of a rank, and of rank 0, in a run of two: a typed end, and the run that resumes ends as the one that was left alone."""

import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from training_runs import DEADLINE_S, TWO_RANKS, to_its_end, training, wait_until
from whole_runs import checkpoint_files, metrics, tables, untimed_episodes, untimed_metrics

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]
END_S = 60.0
"""Seconds within which a run ends that has lost a rank."""


def second_rank(process: "subprocess.Popen[bytes]") -> psutil.Process | None:
    children = psutil.Process(process.pid).children(recursive=True)
    return next((child for child in children if "lzero.train.ranks" in child.cmdline()), None)


@pytest.mark.timeout(8 * DEADLINE_S)
def test_a_run_that_lost_a_rank_and_then_rank_0_ends_as_if_it_had_not(tmp_path: Path) -> None:
    alone, run, log = tmp_path / "alone", tmp_path / "run", tmp_path / "log"
    to_its_end(*TWO_RANKS, f"run.dir={alone}", log=log)
    assert len(list((alone / "checkpoints" / "update-000002" / "trainer").iterdir())) == 2

    with training(*TWO_RANKS, f"run.dir={run}", log=log) as process:
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
