"""Cost of the controller per step: `python benchmarks/controller.py [--json] [--at-once 100 1000 10000] [--profile]`.

Engines and REPLs answer after simulated waits, so the benchmark measures the rest of a rollout: prompts, parsing, deadlines, records,
scoring. Each measurement runs in its own process. The yardsticks are asyncio alone (as many tasks that wait as often and do nothing else)
and asyncio with a step's tokens, parsing and record, which no controller can leave out.

With few episodes the event loop sleeps before nearly every wait, and the processor's caches are cold when it wakes. So each number of
episodes is also measured with shorter waits, which keep the loop as busy as the largest number does: this shows what the number itself
costs.
"""

import argparse
import asyncio
import cProfile
import json
import math
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
from lzero.rewards.l0 import make_is_quick
from lzero.rollout.concurrency import rare_collections
from lzero.rollout.runner import Runner
from lzero.rollout.scoring import Scorer
from lzero.store import Record
from lzero.types import Completion, Execution, Json, Prompt, Sampling, Step, Stream, Task, WorkspaceFile

STEPS, EPISODES_A_TASK = 8, 4
ENGINE_S, CELL_S = 2.0, 0.2
"""Mean waits in seconds; each wait is uniform between 0 and twice the mean."""
LEAST_STEPS = 20_000
"""Fewest steps of a measurement with shorter waits."""
REACH_MS, REACH_MB = 0.5, 0.08
AT_ONCE = (100, 1_000, 10_000)


Work = Callable[[], Awaitable[object]]
"""One round of a measurement."""


class Waits:
    """Random waits from a seed, of `share` of their lengths."""

    def __init__(self, seed: int, *, share: float = 1.0) -> None:
        self._dice = random.Random(seed)
        self._longest = 2.0 * share

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
    parser.add_argument("--only", nargs=3, metavar=("KIND", "NUMBER", "SHARE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        kind, number, share = arguments.only
        print(json.dumps(asyncio.run(measured(kind, int(number), float(share)))))
        return
    largest = max(arguments.at_once)
    figures = [figure for number in arguments.at_once for figure in measure(number, largest)] + parts()
    print(json.dumps([asdict(figure) for figure in figures]) if arguments.json else table(figures))
    if arguments.profile:
        profile = cProfile.Profile()
        profile.runcall(asyncio.run, measured("ours", largest, 1.0))
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)


def measure(number: int, largest: int) -> list[Figure]:
    ours_ms, ours_mb = in_a_process("ours", number)
    busy_ms = ours_ms if number == largest else in_a_process("ours", number, share=number / largest)[0]
    bare_ms, bare_mb = in_a_process("bare", number)
    return [
        at_most(
            f"{number:,} episodes at once, the loop as busy as with {largest:,}: time a step", busy_ms, "ms", REACH_MS
        ),
        Figure("  with waits of 2 s and 0.2 s", ours_ms, "ms"),
        Figure("  … asyncio with a step's tokens, parsing and record", in_a_process("parts", number)[0], "ms"),
        Figure("  … asyncio alone", bare_ms, "ms"),
        at_most("  memory an episode, at most, its record included", ours_mb, "MB", REACH_MB),
        Figure("  … asyncio alone", bare_mb, "MB"),
    ]


def in_a_process(kind: str, number: int, *, share: float = 1.0) -> tuple[float, float]:
    """Return milliseconds of processor a step, and megabytes an episode, with waits of `share` of their lengths."""
    command = [sys.executable, __file__, "--only", kind, str(number), str(share)]
    used_ms, grown_mb = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return used_ms, grown_mb


async def measured(kind: str, number: int, share: float) -> tuple[float, float]:
    """Return milliseconds of processor a step, and megabytes an episode, after a small run that fills all caches."""
    rounds = 1 if share == 1.0 else math.ceil(LEAST_STEPS / (number * STEPS))
    await KINDS[kind](Waits(0, share=0.0), 8)()
    work = KINDS[kind](Waits(number, share=share), number)
    with rare_collections():  # as `build` does
        used_s, grown = await costs(work, rounds)
    return 1e3 * used_s / (rounds * number * STEPS), grown / number / 1e6


def works() -> Mapping[str, Callable[[], object]]:
    """Return name → function, for the parts of a step that no controller can leave out."""
    renderer = Renderer(build_tokenizer())
    text = output_turn("42", notepad="", left=budget_line(7, 3900))
    completion = Completion(token_ids=(), logprobs=(), text=REPLY, stop_reason="stop", versions=())
    parsed = parse(REPLY)

    def record() -> Step:
        step = Step(prompt=Prompt(keep=0, new_ids=()), completion=completion, parsed=parsed, execution=None)
        execution = Execution(outputs=(Stream(name="stdout", text="42\n"),), status="ok", duration_s=CELL_S)
        return msgspec.structs.replace(step, execution=execution, timings={"engine": 1.0, "repl": 1.0, "work": 1.0})

    return {
        "parsing a reply": lambda: parse(REPLY),
        "tokens of an output": lambda: renderer.turn(completion, text),
        "the record": record,
    }


def parts() -> list[Figure]:
    """Return what parts of a step cost, one after another without episodes around them."""
    return [Figure(f"{name}, by itself", 1e3 * seconds(work), "ms") for name, work in works().items()]


def seconds(work: Callable[[], object], *, rounds: int = 2_000) -> float:
    """Return processor seconds of one call."""
    work()
    started = time.process_time()
    for _ in range(rounds):
        work()
    return (time.process_time() - started) / rounds


async def costs(work: Work, rounds: int) -> tuple[float, int]:
    """Return processor seconds of all rounds of `work`, and the maximum growth of the process in bytes."""
    process = psutil.Process()
    before = largest = process.memory_info().rss

    async def watch() -> None:
        nonlocal largest
        while True:
            largest = max(largest, process.memory_info().rss)
            await asyncio.sleep(0.5)

    started = time.process_time()
    watching = asyncio.create_task(watch())
    for _ in range(rounds):
        kept = await work()  # the records of a round live until the next one is done
    watching.cancel()
    used_s = time.process_time() - started
    grown = max(largest, process.memory_info().rss) - before
    del kept
    return used_s, grown


def rollouts(waits: Waits, number: int) -> Work:
    """Return a round that runs and scores `number` concurrent episodes, which never submit, as a stream of batches does."""
    runner = make_runner(number, waits)
    tasks = [
        Task(id=f"task-{index}", question="What is six times seven?", answers=("42",))
        for index in range(number // EPISODES_A_TASK)
    ]

    async def work() -> list[Record]:
        records = await asyncio.gather(
            *(
                runner.record(task, name=task.id, num_episodes=EPISODES_A_TASK, sampling=Sampling(), seed=index)
                for index, task in enumerate(tasks)
            )
        )
        assert all(len(episode.steps) == STEPS for record in records for episode in record.episodes)
        assert all(reward is not None for record in records for reward in record.rewards)
        return records

    return work


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
    scorer = Scorer(make_reward(RewardConfig()), is_quick=make_is_quick(RewardConfig()))
    return Runner(play, scorer, RolloutConfig(concurrency=number))


def only_wait(waits: Waits, number: int, *works: Callable[[], object]) -> Work:
    """Return a round of as many asyncio tasks with as many waits, which call `works` at each step."""

    async def episode() -> None:
        await waits(CELL_S)
        for _ in range(STEPS):
            await waits(ENGINE_S)
            await waits(CELL_S)
            for work in works:
                work()

    async def work() -> list[None]:
        return await asyncio.gather(*(episode() for _ in range(number)))

    return work


def with_parts(waits: Waits, number: int) -> Work:
    return only_wait(waits, number, *works().values())


KINDS: Mapping[str, Callable[[Waits, int], Work]] = {"ours": rollouts, "bare": only_wait, "parts": with_parts}


if __name__ == "__main__":
    main()
