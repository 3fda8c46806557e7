"""A whole run with a lag that is killed in the middle and resumed."""

import json
import signal
import time
from pathlib import Path

import pytest
from commands import FORKED

from lzero.cli import main
from lzero.store import read_episodes
from lzero.types import Episode

pytestmark = pytest.mark.sandbox
UPDATES = 4
SETTINGS = (
    "rollout.max_lag=1",
    f"train.updates={UPDATES}",
    f"train.checkpoint_every={UPDATES}",
    "rollout.tasks_per_update=2",
    "rollout.episodes_per_task=2",
    "rollout.max_refills=1",
    "eval.num_tasks=2",
    "agent.max_steps=2",
    "repl.zygotes=1",
)
DEADLINE_S = 180.0


def train(*arguments: str) -> int | None:
    process = FORKED.Process(target=main, args=(("train", *arguments),))
    process.start()
    process.join(DEADLINE_S)
    return process.exitcode


def kill_in_update(run: Path, update: int) -> None:
    """Run the first updates, and kill the run once the episodes of one are written."""
    process = FORKED.Process(target=main, args=(("train", *SETTINGS, f"run.dir={run}"),))
    process.start()
    deadline = time.monotonic() + DEADLINE_S
    while not (run / "episodes" / "episodes" / f"train-{update:06d}.parquet").exists():
        assert process.exitcode is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join(DEADLINE_S)
    assert process.exitcode == -signal.SIGKILL


def batches(run: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in (run / "order.jsonl").read_text().splitlines()]


def trained(run: Path) -> dict[str, Episode]:
    return {episode.id: episode for episode in read_episodes(run, phase="train")}


@pytest.mark.timeout(400)
def test_a_killed_run_with_a_lag_trains_on_the_same_groups_in_the_same_order(tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_in_update(run, 2)
    before, recorded = trained(run), batches(run)
    assert [line["update"] for line in recorded] == [0, 1, 2]
    assert train("--resume", str(run)) == 0
    after = trained(run)
    assert before.items() <= after.items(), "the groups of the first life are those of the second"
    assert batches(run)[:3] == recorded
    assert [line["update"] for line in batches(run)] == list(range(UPDATES))
    ends = [0, *(line["end"] for line in batches(run))]
    assert [line["first"] for line in batches(run)] == ends[:-1], "no group is left out, and none comes twice"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lags = [line["rollout/lag_max"] for line in lines if line["phase"] == "train"]
    assert len(lags) == UPDATES
    assert all(0 <= lag <= 1 for lag in lags)
    assert list((run / "finished").iterdir()) == [], "the last checkpoint covers all groups"
