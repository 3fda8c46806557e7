"""Cost of the controller per step: `python benchmarks/controller.py [--json] [--at-once 100 1000 10000] [--profile]`.

Engines and REPLs answer after simulated waits, so the benchmark measures the rest of a rollout: prompts, parsing, deadlines, records,
scoring. Each number of concurrent episodes runs in its own process. The yardstick is asyncio alone: as many tasks that wait as often and
do nothing else.
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

import msgspec
import psutil
from agent import REPLY, Instant
from figures import Figure, at_most, table

from lzero.agent.conversation import TokenModel
from lzero.agent.episode import NotebookAgent
from lzero.agent.parser import parse
from lzero.agent.playing import EpisodePlayer
from lzero.agent.prompt import budget_line, output_turn
from lzero.agent.renderer import Renderer
from lzero.agent.scenes import Scenes
from lzero.agent.setting import Setting
from lzero.config import AgentConfig, RewardConfig, RolloutConfig
from lzero.environments.stateless import Nothing
from lzero.models import build_tokenizer
from lzero.protocols import OnCall, Repl, ToolSpec
from lzero.rewards import make_reward
from lzero.rewards.l0 import is_quick
from lzero.rollout.concurrency import rare_collections
from lzero.rollout.runner import Runner
from lzero.rollout.scoring import Scorer
from lzero.store import Record
from lzero.types import Completion, Execution, Json, Prompt, Sampling, Step, Stream, Task, WorkspaceFile

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
    parser.add_argument("--only", nargs=2, metavar=("KIND", "NUMBER"), help=argparse.SUPPRESS)  # a process of its own
    arguments = parser.parse_args()
    if arguments.only:
        kind, number = arguments.only
        print(json.dumps(asyncio.run(KINDS[kind](int(number)))))
        return
    figures = [figure for number in arguments.at_once for figure in measure(number)] + parts()
    print(json.dumps([asdict(figure) for figure in figures]) if arguments.json else table(figures))
    if arguments.profile:
        profile = cProfile.Profile()
        profile.runcall(asyncio.run, ours(max(arguments.at_once)))
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)


def measure(number: int) -> list[Figure]:
    ours_ms, ours_mb = in_a_process("ours", number)
    bare_ms, bare_mb = in_a_process("bare", number)
    return [
        at_most(f"{number:,} episodes at once: processor time a step", ours_ms, "ms", REACH_MS),
        Figure("  asyncio alone", bare_ms, "ms"),
        at_most("  memory an episode, at most, its record included", ours_mb, "MB", REACH_MB),
        Figure("  asyncio alone", bare_mb, "MB"),
    ]


def in_a_process(kind: str, number: int) -> tuple[float, float]:
    """Return milliseconds of processor a step, and megabytes an episode."""
    command = [sys.executable, __file__, "--only", kind, str(number)]
    used_s, grown = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return 1e3 * used_s / (number * STEPS), grown / number / 1e6


async def ours(number: int) -> tuple[float, int]:
    await rollout(make_runner(8, Waits(0, long=False)), 8)  # imports, caches
    runner = make_runner(number, Waits(number))
    with rare_collections():  # as `build` does
        used_s, grown, records = await costs(lambda: rollout(runner, number))
    assert all(len(episode.steps) == STEPS for record in records for episode in record.episodes)
    assert all(reward is not None for record in records for reward in record.rewards)
    return used_s, grown


async def bare(number: int) -> tuple[float, int]:
    await only_wait(8, Waits(0, long=False))
    used_s, grown, _ = await costs(lambda: only_wait(number, Waits(number)))
    return used_s, grown


KINDS = {"ours": ours, "bare": bare}


def parts() -> list[Figure]:
    """Return what parts of a step cost, one after another without episodes around them."""
    renderer = Renderer(build_tokenizer())
    text = output_turn("42", notepad="", left=budget_line(7, 3900))
    completion = Completion(token_ids=(), logprobs=(), text=REPLY, stop_reason="stop", versions=())
    parsed = parse(REPLY)

    def record() -> Step:
        step = Step(prompt=Prompt(keep=0, new_ids=()), completion=completion, parsed=parsed, execution=None)
        execution = Execution(outputs=(Stream(name="stdout", text="42\n"),), status="ok", duration_s=CELL_S)
        return msgspec.structs.replace(step, execution=execution, timings={"engine": 1.0, "repl": 1.0, "work": 1.0})

    works: Mapping[str, Callable[[], object]] = {
        "parsing a reply": lambda: parse(REPLY),
        "tokens of an output": lambda: renderer.turn(completion, text),
        "the record": record,
    }
    return [Figure(f"{name}, by itself", 1e3 * seconds(work), "ms") for name, work in works.items()]


def seconds(work: Callable[[], object], *, rounds: int = 2_000) -> float:
    """Return processor seconds of one call."""
    work()
    started = time.process_time()
    for _ in range(rounds):
        work()
    return (time.process_time() - started) / rounds


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


def make_runner(number: int, waits: Waits) -> Runner:
    """Return what runs `number` concurrent episodes. A run makes it once."""
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
    play = EpisodePlayer(
        scenes=Scenes(environment=Nothing(), timeout_s=60.0), agent=NotebookAgent(setting), config=agent
    )
    scorer = Scorer(make_reward(RewardConfig()), is_quick=is_quick)
    return Runner(play, scorer, RolloutConfig(concurrency=number))


async def rollout(runner: Runner, number: int) -> list[Record]:
    """Run and score `number` concurrent episodes that never submit, as a collector does."""
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
