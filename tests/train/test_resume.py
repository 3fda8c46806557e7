"""SIGKILL of a training run, at any moment: resumed, it ends as the run that was left alone.

A run is killed three times, each time at a stage and a moment of it that are drawn at random, and goes on each time. `make test`
runs one such run, `make test-long` ten.
"""

import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import pytest
from commands import FORKED
from whole_runs import checkpoint_files, metrics, tables, untimed_episodes, untimed_metrics

from lzero.cli import main
from lzero.train.checkpoint import newest_checkpoint, read_manifest

pytestmark = pytest.mark.sandbox
UPDATES = 2
SETTINGS = (
    "run.deterministic=true",
    f"train.updates={UPDATES}",
    "train.checkpoint_every=1",
    "train.lr_schedule=cosine",
    "train.warmup_updates=1",
    "rollout.tasks_per_update=2",
    "rollout.episodes_per_task=2",
    "rollout.max_refills=1",
    "eval.num_tasks=2",
    "eval.every=1",
    "agent.max_steps=2",
    "repl.zygotes=1",
)
Stage = Literal["rollout", "update", "checkpoint"]
CHECKPOINT_S = 0.1
"""About how long one is written."""
DEADLINE_S = 180.0


@dataclass(frozen=True)
class Kill:
    stage: Stage
    update: int
    moment: float
    """Position in the stage, 0 to 1."""


def train(*arguments: str) -> BaseProcess:
    """Start `lzero train` with these arguments."""
    process = FORKED.Process(target=main, args=(("train", *arguments),))
    process.start()
    return process


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "left-alone"
    to_its_end(train(*SETTINGS, f"run.dir={run}"))
    assert [(line["phase"], line["update"]) for line in metrics(run)] == [
        *(("eval", 0), ("train", 0), ("eval", 1)),
        *(("train", 1), ("eval", 2)),
    ]
    return run


def to_its_end(process: BaseProcess) -> None:
    process.join(DEADLINE_S)
    assert process.exitcode == 0


def lengths_s(run: Path, update: int) -> dict[Stage, float]:
    """Return the seconds that each stage of an update took."""
    (line,) = (line for line in metrics(run) if (line["phase"], line["update"]) == ("train", update))
    update_s = line["time/update_s"] - line["time/rollout_s"]
    return {"rollout": line["time/rollout_s"], "update": update_s, "checkpoint": CHECKPOINT_S}


def has_begun(kill: Kill, run: Path, since: float) -> bool:
    """Return whether the run has reached the stage; traces of an earlier life do not count."""
    if kill.stage == "rollout":
        file = run / "metrics.jsonl"
        done = sum(line["phase"] == "train" for line in metrics(run)) if is_newer(file, since) else -1
        return done >= kill.update
    if kill.stage == "update":
        return is_newer(run / "episodes" / "episodes" / f"train-{kill.update:06d}.parquet", since)
    partial = (run / "checkpoints").glob(f".*update-{kill.update + 1:06d}*")
    return any(is_newer(path, since) for path in partial)


def is_newer(file: Path, since: float) -> bool:
    try:
        return file.stat().st_mtime > since
    except FileNotFoundError:
        return False


def carry_out(kill: Kill, process: BaseProcess, run: Path, length_s: float) -> None:
    since, deadline = time.time(), time.monotonic() + DEADLINE_S
    while process.exitcode is None and not has_begun(kill, run, since):
        assert time.monotonic() < deadline, kill
        time.sleep(0.001)
    end = time.monotonic() + kill.moment * length_s
    while time.monotonic() < end:
        time.sleep(0.001)
    process.kill()
    process.join(DEADLINE_S)
    assert process.exitcode in (-signal.SIGKILL, 0)  # the last checkpoint may be the end of the run


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))], ids="life-{}".format
)
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(seed: int, left_alone: Path, tmp_path: Path) -> None:
    run, dice = tmp_path / "run", random.Random(seed)
    stages: list[Stage] = ["rollout", "update", "checkpoint"]
    for stage in dice.sample(stages, len(stages)):
        newest = newest_checkpoint(run / "checkpoints")
        reached = read_manifest(newest).progress.update if newest else 0
        update = dice.randint(min(reached, UPDATES - 1), UPDATES - 1)
        kill = Kill(stage, update, dice.random())
        print(f"after update {reached}: {kill}")
        arguments = ("--resume", str(run)) if (run / "config.toml").exists() else (*SETTINGS, f"run.dir={run}")
        carry_out(kill, train(*arguments), run, lengths_s(left_alone, update)[stage])
    to_its_end(train("--resume", str(run)))
    assert untimed_metrics(run) == untimed_metrics(left_alone)
    assert untimed_episodes(run) == untimed_episodes(left_alone)
    assert tables(run) == tables(left_alone)
    assert checkpoint_files(run) == checkpoint_files(left_alone)
