"""What the agent adds to its sandbox and its model: `python benchmarks/agent.py [--json] [--profile] [--multihop DIRECTORY]`.

The model answers at once, so all that is measured is the agent: prompts, parsing, sessions, tools, records. The yardstick of the
same run is the bare REPL: the same sessions and cells, sent without an agent.
"""

import argparse
import asyncio
import cProfile
import json
import pstats
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from agent_oracle import Oracle, answerable, open_search
from figures import Figure, at_least, table

from lzero.agent.conversation import ChatModel, TokenModel
from lzero.agent.episode import run_episode
from lzero.agent.nb_agent import FOR_A_PERSON
from lzero.agent.renderer import Renderer
from lzero.agent.setting import Setting, Ticket
from lzero.config import AgentConfig
from lzero.engine.scripted.engine import ScriptedChat
from lzero.models import build_tokenizer
from lzero.protocols import Tool
from lzero.repl import LocalPool
from lzero.rewards import exact_match
from lzero.types import Completion, Episode, Json, Sampling, Task

STEPS = 8
AT_ONCE = 16
ROUNDS = 5
CODE = "x = 6 * 7\nprint(x)"
REPLY = f"<think>A thought of some length.</think>\n<code>\n{CODE}\n</code>"
REACH_STEPS, REACH_EPISODES, REACH_EM = 200, 20, 0.98


class Instant:
    """An engine that has its answer ready. Implements `Engine`."""

    version = 0

    def __init__(self, token_ids: Sequence[int]) -> None:
        count = len(token_ids)
        self._completion = Completion(
            token_ids=tuple(token_ids), logprobs=(0.0,) * count, text=REPLY, stop_reason="stop", versions=((0, count),)
        )

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        return self._completion

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]:
        raise NotImplementedError

    async def pause(self) -> None:
        raise NotImplementedError

    async def resume(self) -> None:
        raise NotImplementedError

    def stats(self) -> Mapping[str, float]:
        return {}

    async def forget(self, affinity: str) -> None:
        pass

    async def close(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--profile", action="store_true", help="show where the host's time goes")
    parser.add_argument("--episodes", type=int, default=200, help="of a measurement")
    parser.add_argument("--multihop", type=Path, help="directory of dev.jsonl.gz and corpus.jsonl.gz: real questions")
    arguments = parser.parse_args()
    profile = cProfile.Profile() if arguments.profile else None
    figures = asyncio.run(measure(arguments.episodes, arguments.multihop, profile))
    print(json.dumps([asdict(figure) for figure in figures]) if arguments.json else table(figures))
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


async def measure(episodes: int, multihop: Path | None, profile: cProfile.Profile | None) -> list[Figure]:
    async with LocalPool() as pool:
        await bare(pool, 2 * AT_ONCE)  # a zygote per core is there
        turns: list[tuple[float, float]] = []
        for _ in range(ROUNDS):  # in turns: both meet the same machine
            cells = await bare(pool, episodes // ROUNDS)
            if profile is not None:
                profile.enable()
            turns.append((cells, await stepped(pool, episodes // ROUNDS)))
            if profile is not None:
                profile.disable()
        cells, steps = (statistics.median(values) for values in zip(*turns, strict=True))
        figures = [
            at_least(f"agent steps per second, a cell each ({STEPS} an episode)", steps, "/s", REACH_STEPS),
            Figure("  cells per second in the same sessions without an agent", cells, "/s"),
            Figure("  which is more by", cells / steps, "×"),
        ]
        if multihop is not None:
            figures += await real_questions(pool, multihop, episodes)
    return figures


async def stepped(pool: LocalPool, episodes: int) -> float:
    """Steps per second of episodes that never submit."""
    tokenizer = build_tokenizer()
    engine = Instant(tokenizer.encode(REPLY, add_special_tokens=False))
    agent = AgentConfig.model_validate({**FOR_A_PERSON, "memory": "none", "summary_tokens": 512, "max_steps": STEPS})
    setting = Setting(agent=agent, model=TokenModel(engine, Renderer(tokenizer), 60.0), pool=pool, deadline_s=600.0)
    task = Task(id="steps", question="What is six times seven?", answers=("42",))
    started = time.perf_counter()
    done = await many([(task, setting)] * episodes)
    assert all(len(episode.steps) == STEPS and episode.status == "out_of_steps" for episode in done)
    return STEPS * episodes / (time.perf_counter() - started)


async def bare(pool: LocalPool, sessions: int) -> float:
    """Cells per second of the same sessions, opened and closed in between."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def session(seed: int) -> None:
        async with gate:
            repl = await pool.open((), no_tools, seed=seed)
            for _ in range(STEPS):
                assert (await repl.run(CODE, deadline_s=60.0)).status == "ok"
            await repl.close()

    started = time.perf_counter()
    await asyncio.gather(*map(session, range(sessions)))
    return STEPS * sessions / (time.perf_counter() - started)


async def real_questions(pool: LocalPool, directory: Path, number: int) -> list[Figure]:
    """HotpotQA, answered by a script that searches the gold titles in the local corpus."""
    tasks = answerable(directory, number)
    agent = AgentConfig.model_validate(FOR_A_PERSON)
    setting = Setting(agent=agent, model=ChatModel(ScriptedChat(Oracle(tasks)), 60.0), pool=pool, deadline_s=600.0)
    search = open_search(directory)
    started = time.perf_counter()
    done = await many([(task, setting) for task in tasks], search)
    elapsed = time.perf_counter() - started
    right = [exact_match(episode.answer or "", task.answers) for task, episode in zip(tasks, done, strict=True)]
    return [
        at_least(f"EM of the oracle over {len(tasks)} HotpotQA questions", sum(right) / len(right), "", REACH_EM),
        at_least("  such episodes per second", len(tasks) / elapsed, "/s", REACH_EPISODES),
        Figure("  steps an episode", statistics.mean(len(episode.steps) for episode in done), ""),
    ]


async def many(attempts: Sequence[tuple[Task, Setting]], *tools: Tool) -> list[Episode]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(index: int, task: Task, setting: Setting) -> Episode:
        async with gate:
            ticket = Ticket(id=f"{task.id}/{index}", index=index, seed=index, sampling=Sampling())
            return await run_episode(task, ticket, setting, tools=tools)

    return await asyncio.gather(*(one(index, *attempt) for index, attempt in enumerate(attempts)))


async def no_tools(name: str, arguments: dict[str, Json]) -> Json:
    raise AssertionError(name)


if __name__ == "__main__":
    main()
