"""A Ray cluster of several nodes on this machine, in a process of its own that has a hard limit of time.

python ray_cluster.py CHECK DIRECTORY      runs one of the functions `check_…` of tests/launch/ray_checks.py
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

STORE = 80_000_000
"""Bytes of a node's object store, nearly the least that Ray takes: nothing of lzero goes through it."""
STARTS = 5


class Nodes:
    """Nodes of a cluster, which can be added and lost."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address

    def add(self, **resources: float) -> Any:
        """Add a node with these resources, and return it."""
        return started(partial(self._cluster.add_node, num_cpus=0, resources=resources, object_store_memory=STORE))

    def lose(self, node: Any) -> None:
        """Kill a node with all its processes, as if its machine were lost."""
        self._cluster.remove_node(node, allow_graceful=False)

    def lose_head(self) -> None:
        """Kill the head's process that keeps the cluster together (GCS)."""
        self._cluster.head_node.kill_gcs_server(check_alive=False)

    def processes(self, node: Any) -> list[psutil.Process]:
        """Return the processes that run on a node."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return raylet.children(recursive=True)

    def lose_all(self) -> None:
        """Kill every node, the head first."""
        for node in self._cluster.list_all_nodes():
            self.lose(node)


def started(start: Callable[[], Any]) -> Any:
    """Start a node, several times if need be: Ray gives a new node 15 seconds, which a machine that runs other tests may not have."""
    for _ in range(STARTS - 1):
        with suppress(Exception):
            return start()
    return start()


@contextmanager
def cluster() -> Iterator[Nodes]:
    """Yield the head of a new cluster, which has no resources; shut all of it down after the block."""
    # Ray gives its workers the least priority; beside other tests, they would hardly run.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_raylet_start_wait_time_s": "60",
        "RAY_agent_register_timeout_ms": "240000",
    }
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    made = started(partial(Cluster, initialize_head=True, head_node_args=head))
    try:
        yield Nodes(made)
    finally:
        ray.shutdown()
        made.shutdown()


def run_check(name: str, directory: Path, *, seconds: float, variables: Mapping[str, str] = {}) -> str:
    """Run a check in a process of its own; return what it printed. Its failure is an AssertionError with its output."""
    command = [sys.executable, str(Path(__file__).parents[1] / "launch" / "ray_checks.py"), name, str(directory)]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0", **variables}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            output = f"not done within {seconds:g} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-6_000:]
    return output


def run_main(checks: Mapping[str, Any]) -> None:
    """Run the check that the command line names."""
    asyncio.run(checks[sys.argv[1]](Path(sys.argv[2])))
