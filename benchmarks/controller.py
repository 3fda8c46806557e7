"""Cost of the controller per step: `python benchmarks/controller.py [--json] [--at-once 100 1000 10000] [--profile]`.

Engines and REPLs answer after simulated waits, so the benchmark measures the rest of a rollout: prompts, parsing, deadlines, records,
scoring. Each number of concurrent episodes runs in its own process. The yardstick, in the same process, is asyncio alone: as many
tasks that wait as often and do nothing else.
"""

import argparse
import asyncio
import cProfile
import json
import pstats
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict

import psutil
from agent import REPLY, Instant
from figures import Figure, at_most, table

from lzero.agent.conversation import TokenModel
from lzero.agent.episode import NotebookAgent, Setting
from lzero.agent.playing import Play
from lzero.agent.renderer import Renderer
from lzero.agent.scenes import Scenes
from lzero.config import AgentConfig, RewardConfig, RolloutConfig
from lzero.environments.stateless import Nothing
from lzero.models import build_tokenizer
from lzero.protocols import OnCall, Repl, ToolSpec
from lzero.rewards import make_reward
from lzero.rollout.runner import Runner
from lzero.rollout.scoring import Scorer
from lzero.store import Record
from lzero.types import Completion, Execution, Json, Sampling, Stream, Task, WorkspaceFile

STEPS, EPISODES_A_TASK = 8, 4
ENGINE_S, CELL_S = 2.0, 0.2
"""Mean waits in seconds; each wait is uniform between 0 and twice the mean."""
REACH_MS, REACH_MB = 0.5, 0.08
AT_ONCE = (100, 1_000, 10_000)


class Waits:
    """Random waits from a seed; all are 0 unless `long`."""

    def __init__(self, seed: int, *, long: bool = True) -> None:
        self._dice = random.Random(seed)
        self._longest = 2.0 if long else 0.0

    async def __call__(self, mean_s: float) -> None:
        await asyncio.sleep(self._dice.uniform(0.0, self._longest * mean_s))


class SlowEngine(Instant):
    """An engine that answers after a wait."""

    def __init__(self, token_ids: Sequence[int], waits: Waits) -> None:
        super().__init__(token_ids)
        self._waits = waits

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        await self._waits(ENGINE_S)
        return await super().sample(ids, sampling, request_id=request_id, affinity=affinity, deadline_s=deadline_s)


class SlowRepl:
    """A REPL whose cells print a line after a wait. Implements `Repl`."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    async def run(self, code: str, *, deadline_s: float) -> Execution:
        await self._waits(CELL_S)
        return Execution(outputs=(Stream(name="stdout", text="42\n"),), status="ok", duration_s=CELL_S)

    async def put(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    async def get(self, path: str) -> bytes:
        raise NotImplementedError

    async def files(self) -> tuple[WorkspaceFile, ...]:
        return ()

    async def fork(self, on_call: OnCall, *, seed: int) -> Repl:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class SlowPool:
    """A pool of `SlowRepl`s. Implements `ReplPool`."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> Repl:
        await self._waits(CELL_S)
        return SlowRepl(self._waits)

    async def close(self) -> None:
        pass

    def stats(self) -> Mapping[str, float]:
        return {}

    def facts(self) -> Mapping[str, Json]:
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--at-once", type=int, nargs="+", default=AT_ONCE, help="numbers of concurrent episodes")
    parser.add_argument("--profile", action="store_true", help="profile the largest number")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # a process of its own
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps([asdict(figure) for figure in asyncio.run(measure(arguments.only))]))
        return
    figures = [figure for number in arguments.at_once for figure in in_a_process(number)]
    print(json.dumps([asdict(figure) for figure in figures]) if arguments.json else table(figures))
    if arguments.profile:
        profile = cProfile.Profile()
        profile.runcall(asyncio.run, measure(max(arguments.at_once)))
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def in_a_process(number: int) -> list[Figure]:
    command = [sys.executable, __file__, "--only", str(number)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return [Figure(**figure) for figure in json.loads(done.stdout)]


async def measure(number: int) -> list[Figure]:
    await rollout(8, Waits(0, long=False))  # imports, caches
    bare_s, bare_bytes, _ = await costs(lambda: only_wait(number, Waits(number)))
    ours_s, ours_bytes, records = await costs(lambda: rollout(number, Waits(number)))
    assert all(len(episode.steps) == STEPS for record in records for episode in record.episodes)
    assert all(reward is not None for record in records for reward in record.rewards)
    steps = number * STEPS
    return [
        at_most(f"{number:,} episodes at once: processor time a step", 1e3 * ours_s / steps, "ms", REACH_MS),
        Figure("  asyncio alone", 1e3 * bare_s / steps, "ms"),
        at_most("  memory an episode, at most, its record included", ours_bytes / number / 1e6, "MB", REACH_MB),
        Figure("  asyncio alone", bare_bytes / number / 1e6, "MB"),
    ]


async def costs(work: Callable[[], Awaitable[list[Record]]]) -> tuple[float, int, list[Record]]:
    """Return processor seconds, maximum growth of the process in bytes, and the result of `work`."""
    process = psutil.Process()
    before = largest = process.memory_info().rss

    async def watch() -> None:
        nonlocal largest
        while True:
            largest = max(largest, process.memory_info().rss)
            await asyncio.sleep(0.5)

    started = time.process_time()
    watching = asyncio.create_task(watch())
    records = await work()
    watching.cancel()
    used_s = time.process_time() - started
    return used_s, max(largest, process.memory_info().rss) - before, records


async def rollout(number: int, waits: Waits) -> list[Record]:
    """Run and score `number` concurrent episodes that never submit, as a collector does."""
    tokenizer = build_tokenizer()
    agent = AgentConfig(max_steps=STEPS, max_tokens=4096, response_tokens=256)
    setting = Setting(
        agent=agent,
        model=TokenModel(
            SlowEngine(tokenizer.encode(REPLY, add_special_tokens=False), waits), Renderer(tokenizer), 600.0
        ),
        pool=SlowPool(waits),
        deadline_s=3600.0,
    )

    play = Play(scenes=Scenes(environment=Nothing(), timeout_s=60.0), agent=NotebookAgent(setting), config=agent)
    runner = Runner(play, Scorer(make_reward(RewardConfig())), RolloutConfig(concurrency=number))
    tasks = [
        Task(id=f"task-{index}", question="What is six times seven?", answers=("42",))
        for index in range(number // EPISODES_A_TASK)
    ]
    return await asyncio.gather(
        *(
            runner.record(task, name=task.id, num_episodes=EPISODES_A_TASK, sampling=Sampling(), seed=index)
            for index, task in enumerate(tasks)
        )
    )


async def only_wait(number: int, waits: Waits) -> list[Record]:
    """Run as many asyncio tasks with as many waits."""

    async def episode() -> None:
        await waits(CELL_S)
        for _ in range(STEPS):
            await waits(ENGINE_S)
            await waits(CELL_S)

    await asyncio.gather(*(episode() for _ in range(number)))
    return []


if __name__ == "__main__":
    main()
