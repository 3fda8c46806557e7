"""Runs of `lzero train` whose pool servers and ranks are on nodes of a Ray cluster, on this machine."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ray_cluster import cluster
from training_runs import training, wait_until
from whole_runs import metrics

ENDS_S = 3600.0
"""Seconds in which a run must end that has lost a pool node."""
BUSY = 8
"""Processes of sessions on a node above which episodes run there."""


def train_while_a_pool_node_is_lost(run: Path, *arguments: str, log: Path) -> list[dict[str, Any]]:
    """Train with two nodes for sandboxes, and kill one of them during the second update. Return the run's metrics."""
    with cluster() as nodes:
        lost, _ = nodes.add(lzero_pool=1), nodes.add(lzero_pool=1)
        with training("--ray", nodes.address, f"run.dir={run}", *arguments, log=log) as process:
            wait_until(lambda: updates(run) and sum(map(is_session, nodes.processes(lost))) > BUSY, process, log)
            nodes.lose(lost)
            assert process.wait(ENDS_S) == 0, log.read_text()[-3000:]
    return metrics(run)


def is_session(process: psutil.Process) -> bool:
    """Return whether a process is a REPL, or the process that REPLs are forked from."""
    with suppress(psutil.Error):
        return "/opt/lzero/start.py" in process.cmdline()
    return False


def updates(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of the updates so far."""
    return [line for line in metrics(run) if line["phase"] == "train"] if (run / "metrics.jsonl").exists() else []


def lost_of(lines: list[dict[str, Any]]) -> tuple[int, int]:
    """Return how many groups and episodes the batches of a run lack, and how many attempts failed because a pool server was lost."""
    trained = [line for line in lines if line["phase"] == "train"]
    lacking = sum(line["groups/missing"] + line["groups/missing_episodes"] for line in trained)
    return int(lacking), int(sum(line["failures/pool"] for line in trained))
