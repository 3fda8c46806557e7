"""Measure the cost of the Ray launcher, and check that a run over Ray learns: `python benchmarks/on_ray.py speed | world [--rounds 5]`.

    speed    episodes per second: sandboxes of a pool server that Ray has placed against those of the run's own process. Both sample the
             same tasks in turns, and the ratio is the median over the turns.
    world    the demo, by `lzero train --ray`, on two nodes for sandboxes of which one is killed during the second update

The cluster has several nodes on this machine (ray.cluster_utils).
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from figures import Figure, at_least, table

from lzero.config import Config, make_config
from lzero.rollout.compose import build, train_tasks
from lzero.rollout.runner import Runner
from lzero.seeds import derive_seed
from lzero.threads import computing_alone
from lzero.types import Sampling

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from ray_cluster import cluster
from ray_runs import lost_of, train_while_a_pool_node_is_lost

REACH = 0.95
LEARNED = 0.99
TASKS, EPISODES = 32, 4
ENGINES: dict[str, dict[str, Any]] = {
    "the nano model": {"kind": "local"},
    "a script in the place of a model": {"kind": "scripted", "policy": "expert"},
}


async def speed(address: str, engine: dict[str, Any], rounds: int) -> tuple[float, float, float]:
    """Return episodes per second of this process's own sandboxes and of those on the cluster, and the median ratio of a turn."""
    here = make_config({"engine": engine})
    there = make_config({"engine": engine, "launch": {"ray": address}})
    turns: list[tuple[float, float]] = []
    async with AsyncExitStack() as stack:
        stack.enter_context(computing_alone())
        plain, placed = [(await stack.enter_async_context(build(config))).runner for config in (here, there)]
        for turn in range(rounds + 1):
            pair = await seconds(plain, here, turn), await seconds(placed, here, turn)
            if turn:  # the first one warms up
                turns.append(pair)
    one, other = (TASKS * EPISODES / statistics.median(times) for times in zip(*turns, strict=True))
    return one, other, statistics.median(plain_s / placed_s for plain_s, placed_s in turns)


async def seconds(runner: Runner, config: Config, turn: int) -> float:
    """Return the seconds for all episodes of the tasks of a turn."""
    source, sampling = train_tasks(config), Sampling(max_tokens=config.agent.response_tokens)
    start = time.monotonic()
    records = await asyncio.gather(
        *(
            runner.record(
                source.task(turn * TASKS + index),
                name=f"{turn}/{index}",
                num_episodes=EPISODES,
                sampling=sampling,
                seed=derive_seed(turn, "task", index),
            )
            for index in range(TASKS)
        )
    )
    assert all(reward is not None for record in records for reward in record.rewards)
    return time.monotonic() - start


def speeds(rounds: int) -> list[Figure]:
    found = []
    with cluster() as nodes:
        nodes.add(lzero_pool=1)
        for name, engine in ENGINES.items():
            plain, placed, ratio = asyncio.run(speed(nodes.address, engine, rounds))
            found += [
                Figure(f"{name}: sandboxes of the run's own process", plain, "episodes/s"),
                Figure(f"{name}: sandboxes of a pool server that Ray has placed", placed, "episodes/s"),
                at_least(f"{name}: Ray against the plain path", ratio, "×", REACH)
                if engine["kind"] == "local"
                else Figure(f"{name}: Ray against the plain path", ratio, "×"),
            ]
    return found


def world(into: Path) -> list[Figure]:
    found = train_while_a_pool_node_is_lost(into / "run", log=into / "log")
    scores = [line["score"] for line in found if line["phase"] == "eval"]
    lacking, again = lost_of(found)
    return [
        Figure("held-out score before", scores[0], ""),
        at_least("held-out score after", scores[-1], "", LEARNED),
        Figure("groups and episodes that the batches lack", lacking, "", "0", lacking == 0),
        Figure("attempts that were made again on the other node", again, ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "world"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = speeds(options.rounds) if options.what == "speed" else world(Path(directory))
    print(json.dumps([asdict(figure) for figure in found]) if options.json else table(found))


if __name__ == "__main__":
    main()
