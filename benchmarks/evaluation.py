"""What an evaluation adds to its episodes: `python benchmarks/evaluation.py [--json] [--tasks 200] [--profile]`.

The engine answers at once, so all that is measured is lzero. The yardstick is the bare agent: the same episodes in the same sandboxes, as
many at once, not scored and not kept. The evaluation also scores them, writes each finished question before it counts, shows the score so
far, and ends with intervals and tables. Both run in turns, and the median of the ratios counts. Other programs disturb the seconds; the
processor seconds of lzero itself, without its sandboxes, are printed for that case.
"""

import argparse
import asyncio
import cProfile
import io
import json
import pstats
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from figures import Figure, at_most, table
from rich.console import Console

from lzero.agent.compose import open_agent, opened_scenes
from lzero.agent.setting import Ticket
from lzero.cli.evaluation_display import EvaluationDisplay
from lzero.config import Config, load_config
from lzero.eval.evaluate import GREEDY, Evaluator
from lzero.protocols import TaskSource
from lzero.rollout.compose import eval_tasks, open_scorer
from lzero.rollout.concurrency import rare_collections, run_all
from lzero.rollout.deadline import lzero_s
from lzero.rollout.runner import RunEpisode, Runner
from lzero.seeds import derive_seed
from lzero.store import RunDirectory
from lzero.types import Episode

AT_ONCE, ROUNDS, REACH = 16, 7, 10.0


@dataclass(frozen=True)
class Work:
    """Bare episodes and an evaluation of the same tasks."""

    play: RunEpisode
    runner: Runner
    source: TaskSource
    config: Config
    place: Path

    async def bare(self) -> None:
        """Run each task's episode."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def episode(position: int) -> Episode:
            seed = derive_seed(0, "eval", position)
            ticket = Ticket(id=f"bare/{position}/0", index=0, seed=derive_seed(seed, "episode", 0), sampling=GREEDY)
            async with slots:
                return await self.play(self.source.task(position), ticket, seed=derive_seed(seed, "scene"))

        found = await run_all(episode(position) for position in range(self.config.eval.num_tasks))
        assert all(episode.status == "finished" for episode in found)

    async def evaluation(self) -> None:
        """Evaluate, in a new run directory."""
        path = Path(tempfile.mkdtemp(dir=self.place))
        run = RunDirectory.create(load_config(None, [f'run.dir="{path}"']))
        num_tasks = self.config.eval.num_tasks
        console = Console(file=io.StringIO(), force_terminal=True)
        with EvaluationDisplay(console, ("eval",), num_tasks=num_tasks, measure="EM") as display:
            evaluator = Evaluator(runner=self.runner, source=self.source, config=self.config, on_question=display.saw)
            (found,) = await evaluator.record(run)
        assert found.score == 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--tasks", type=int, default=200, help="number of tasks")
    parser.add_argument("--profile", action="store_true", help="profile one evaluation")
    arguments = parser.parse_args()
    figures = asyncio.run(measured(arguments.tasks, profile=arguments.profile))
    print(json.dumps([asdict(figure) for figure in figures]) if arguments.json else table(figures))


async def measured(num_tasks: int, *, profile: bool) -> list[Figure]:
    changes = [
        "engine.kind=scripted",
        "engine.policy=expert",
        f"eval.num_tasks={num_tasks}",
        f"rollout.concurrency={AT_ONCE}",
    ]
    config = load_config(None, changes)
    with tempfile.TemporaryDirectory() as place, rare_collections():
        async with (
            opened_scenes(config) as scenes,
            open_agent(
                config,
                scenes,
                deadline_s=lzero_s(config),
                request_timeout_s=config.rollout.request_timeout_s,
                session_s=3600.0,
            ) as ready,
        ):
            runner = Runner(ready.play, open_scorer(config), config.rollout)
            work = Work(ready.play, runner, eval_tasks(config), config, Path(place))
            await seconds(work.bare)
            await seconds(work.evaluation)
            pairs = [(await seconds(work.bare), await seconds(work.evaluation)) for _ in range(ROUNDS)]
            if profile:
                with cProfile.Profile() as found:
                    await work.evaluation()
                pstats.Stats(found).sort_stats("tottime").print_stats(30)
    bare_s, evaluation_s = (statistics.median(each.wall for each in one) for one in zip(*pairs, strict=True))
    return [
        Figure(f"the bare agent, {num_tasks} episodes, {AT_ONCE} at once", num_tasks / bare_s, "/s"),
        Figure("lzero's evaluation of them", num_tasks / evaluation_s, "/s"),
        at_most("overhead of the evaluation", overhead((bare.wall, own.wall) for bare, own in pairs), "%", REACH),
        Figure("  in processor seconds of lzero", overhead((bare.cpu, own.cpu) for bare, own in pairs), "%"),
    ]


class Seconds(NamedTuple):
    wall: float
    cpu: float


def overhead(pairs: Iterable[tuple[float, float]]) -> float:
    """Return by how many percent the second numbers exceed the first, in the median."""
    return 100 * statistics.median(own / bare - 1.0 for bare, own in pairs)


async def seconds(work: Callable[[], Awaitable[None]]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    main()
