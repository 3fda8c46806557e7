"""A large run in virtual time: `python benchmarks/simulation.py [--json] [--repls 10000] [--engines 64] [--ranks 64] [--updates 4]`.

The controller is lzero's own: the training loop, the stream with a lag of one update, agents, parsing, rewards, records. Engines, REPLs
and the learner are simulated, and the event loop's clock jumps to the next event. An engine shares its speed between its sequences, as
`lzero.plan` computes it for one GPU; cells have a long tail; the learner takes as long as the rank with the most operations. So the
benchmark shows whether one controller bears such a run, and how far `lzero plan`'s formula is from the simulated queue. Tokens are few, and
stand for as many as the workload says: they cost the controller less than real ones.
"""

import argparse
import asyncio
import heapq
import json
import logging
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agent import REPLY, Instant
from controller import SlowPool, SlowRepl, Waits
from figures import Figure, at_most, table

from lzero.agent.conversation import TokenModel
from lzero.agent.episode import NotebookAgent
from lzero.agent.playing import EpisodePlayer
from lzero.agent.renderer import Renderer
from lzero.agent.scenes import Scenes
from lzero.agent.setting import Setting
from lzero.config import Config, RewardConfig, load_config
from lzero.environments.stateless import Nothing
from lzero.models import build_tokenizer, load_model, load_tokenizer, resolve
from lzero.plan import make_plan
from lzero.plan.architecture import architecture_of
from lzero.plan.devices import device_named
from lzero.plan.placement import Placement
from lzero.plan.speed import EngineTimes
from lzero.plan.workload import Workload
from lzero.protocols import OnCall, Repl, ToolSpec
from lzero.rewards import make_reward
from lzero.rewards.l0 import make_is_quick
from lzero.rollout.compose import open_stream, train_tasks
from lzero.rollout.runner import Runner
from lzero.rollout.scoring import Scorer
from lzero.store import RunDirectory
from lzero.train.checkpoint import Progress, Snapshot, take_snapshot
from lzero.train.loop import train
from lzero.train.ranks.balance import balanced, operations
from lzero.types import Completion, Execution, Group, Sampling, Stream

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
import virtual_time

STEPS = 5
MODEL, GPU = "Qwen3-4B", "H100"
CELL_S, REPLY_SPREAD, TAIL_SPREAD, LONGEST_CELL_S = 6.0, 0.6, 1.5, 60.0
"""Mean seconds of a cell before it is cut off, standard deviations of the logarithms of reply lengths and of these seconds, the limit of a
cell."""
WORK = Workload(steps=STEPS, prompt_tokens=1500, reply_tokens=400, output_tokens=600, cell_s=CELL_S)
PLAN_REACH, CONTROLLER_REACH = 0.25, 1.0


@dataclass
class Totals:
    """Sums over a simulation, in virtual seconds and in numbers."""

    steps: int = 0
    open_repls: int = 0
    most_repls: int = 0
    cell_s: float = 0.0
    decoding_s: float = 0.0
    """Seconds that sequences spent in engines, summed over sequences."""
    busy_s: float = 0.0
    """Seconds in which an engine had a sequence, summed over engines."""
    learning_s: float = 0.0
    rank_idle: float = 0.0
    """Largest share of a rank's time that it waited for the slowest."""


class SharedEngine:
    """One engine that decodes all its sequences at once; the more there are, the longer a token takes."""

    def __init__(self, times: EngineTimes, totals: Totals) -> None:
        self._times, self._totals = times, totals
        self.sequences: list[tuple[float, int, asyncio.Future[None]]] = []
        """(tokens decoded when it ends, number, whom to wake), the next to end first."""
        self._decoded, self._at, self._number = 0.0, 0.0, 0
        self._timer: asyncio.TimerHandle | None = None

    async def decode(self, tokens: float) -> None:
        self._advance()
        done = asyncio.get_running_loop().create_future()
        self._number += 1
        heapq.heappush(self.sequences, (self._decoded + tokens, self._number, done))
        self._wait()
        await done

    def _advance(self) -> None:
        now = asyncio.get_running_loop().time()
        if self.sequences:
            self._decoded += (now - self._at) / self._times.token_s(len(self.sequences))
            self._totals.busy_s += now - self._at
            self._totals.decoding_s += (now - self._at) * len(self.sequences)
        self._at = now

    def _wait(self) -> None:
        """Wake at the next end of a sequence."""
        if self._timer is not None:
            self._timer.cancel()
        if self.sequences:
            tokens = max(0.0, self.sequences[0][0] - self._decoded)
            seconds = tokens * self._times.token_s(len(self.sequences))
            self._timer = asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        self._advance()
        while self.sequences and self.sequences[0][0] <= self._decoded + 1e-6:
            _, _, done = heapq.heappop(self.sequences)
            if not done.done():
                done.set_result(None)
        self._wait()


class Fleet(Instant):
    """Engines behind one interface; an episode stays at the engine that had the fewest of them. Implements `Engine`."""

    def __init__(self, engines: Sequence[SharedEngine], token_ids: Sequence[int], seed: int) -> None:
        super().__init__(token_ids)
        self._engines, self._dice = engines, random.Random(seed)
        self._homes: dict[str, int] = {}
        self._episodes: Counter[int] = Counter(dict.fromkeys(range(len(engines)), 0))
        self.tokens: Counter[str] = Counter()
        """Tokens sampled, by episode."""

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        if affinity not in self._homes:
            self._homes[affinity] = min(self._episodes, key=lambda number: self._episodes[number])
            self._episodes[self._homes[affinity]] += 1
        tokens = lognormal(self._dice, WORK.reply_tokens, REPLY_SPREAD)
        self.tokens[affinity] += round(tokens)
        await self._engines[self._homes[affinity]].decode(tokens)
        done = await super().sample(ids, sampling, request_id=request_id, affinity=affinity, deadline_s=deadline_s)
        return Completion(
            token_ids=done.token_ids,
            logprobs=done.logprobs,
            text=done.text,
            stop_reason=done.stop_reason,
            versions=((self.version, done.num_tokens),),
        )

    async def forget(self, affinity: str) -> None:
        self._episodes[self._homes.pop(affinity, 0)] -= 1


class TailedRepl(SlowRepl):
    """A REPL whose cells call tools with a long tail."""

    def __init__(self, dice: random.Random, totals: Totals) -> None:
        super().__init__(Waits(0))
        self._dice, self._totals = dice, totals

    async def run(self, code: str, *, deadline_s: float) -> Execution:
        seconds = cell_seconds(self._dice)
        self._totals.steps += 1
        self._totals.cell_s += seconds
        await asyncio.sleep(seconds)
        return Execution(outputs=(Stream(name="stdout", text="42\n"),), status="ok", duration_s=seconds)

    async def close(self) -> None:
        self._totals.open_repls -= 1


class TailedPool(SlowPool):
    """A pool of `TailedRepl`s."""

    def __init__(self, seed: int, totals: Totals) -> None:
        super().__init__(Waits(0))
        self._dice, self._totals = random.Random(seed), totals

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> Repl:
        self._totals.open_repls += 1
        self._totals.most_repls = max(self._totals.most_repls, self._totals.open_repls)
        return TailedRepl(self._dice, self._totals)


class Ranks:
    """A learner whose ranks share the operations of a batch, and wait for the slowest. Implements `Learner`."""

    skipped_in_a_row = 0

    def __init__(self, fleet: Fleet, config: Config, *, ranks: int, seconds: float, totals: Totals) -> None:
        """`seconds`: those of a balanced update."""
        self._fleet, self._config, self._ranks, self._seconds, self._totals = fleet, config, ranks, seconds, totals
        path = resolve(config.model.path)
        self._model, self._tokenizer = load_model(path, dtype="float32", device="cpu"), load_tokenizer(path)

    async def learn(self, groups: Sequence[Group], *, update: int) -> dict[str, float]:
        other = round(WORK.tokens - WORK.action_tokens)
        lengths = [other + self._fleet.tokens.pop(episode.id, 0) for group in groups for episode in group.episodes]
        costs = [operations(length, architecture_of(MODEL).hidden) for length in lengths]
        loads = [sum(costs[number] for number in part) for part in balanced(costs, self._ranks)]
        slowest = max(loads) * len(loads) / sum(loads)
        self._totals.rank_idle = max(self._totals.rank_idle, 1 - min(loads) / max(loads))
        seconds = self._seconds * slowest * sum(lengths) / (len(lengths) * WORK.tokens)
        self._totals.learning_s += seconds
        await asyncio.sleep(seconds)
        return {}

    async def publish(self, *, version: int) -> dict[str, float]:
        self._fleet.version = version
        return {}

    async def close(self) -> None: ...

    def snapshot(self, progress: Progress, score: float | None) -> Snapshot:
        return take_snapshot(self._model, self._tokenizer, [], config=self._config, progress=progress, score=score)


def cell_seconds(dice: random.Random) -> float:
    return min(LONGEST_CELL_S, lognormal(dice, CELL_S, TAIL_SPREAD))


def drawn(times: EngineTimes, *, batch: float, episodes: int) -> Workload:
    """Return the workload with the mean of a cell and the longest of so many episodes, as they are drawn."""
    dice, token_s = random.Random(0), times.token_s(batch)
    cells = [[cell_seconds(dice) for _ in range(STEPS)] for _ in range(episodes)]
    seconds = [sum(own) + token_s * sum(lognormal(dice, WORK.reply_tokens, REPLY_SPREAD) for _ in own) for own in cells]
    mean_cell_s = sum(map(sum, cells)) / (STEPS * episodes)
    return replace(WORK, cell_s=mean_cell_s, longest=max(seconds) * episodes / sum(seconds))


def lognormal(dice: random.Random, mean: float, spread: float) -> float:
    """Draw from a lognormal distribution with this mean and standard deviation of the logarithm."""
    return dice.lognormvariate(math.log(mean) - spread**2 / 2, spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--repls", type=int, default=10_000)
    parser.add_argument("--engines", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--updates", type=int, default=4)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    figures = measure(arguments.repls, arguments.engines, arguments.ranks, arguments.updates)
    print(json.dumps([asdict(figure) for figure in figures]) if arguments.json else table(figures))


def measure(repls: int, engines: int, ranks: int, updates: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        config = load_config(
            overrides=[
                f"run.dir={directory}/run",
                "rollout.max_lag=1",
                f"rollout.tasks_per_update={repls // 8}",
                f"rollout.concurrency={repls}",
                "rollout.filter=none",
                f"train.updates={updates}",
                f"train.checkpoint_every={updates}",
                f"agent.max_steps={STEPS}",
            ]
        )
        planned, model, device = replace_model(config), architecture_of(MODEL), device_named(GPU)
        placement = Placement(ranks=ranks, replicas=engines)
        times = EngineTimes(model, planned, WORK, placement, device)
        work = drawn(times, batch=repls / engines / 2, episodes=repls // 2)
        plan = make_plan(planned, model, work, device, placement=placement, devices=engines + ranks)
        totals = Totals()
        wall, used = time.perf_counter(), time.process_time()
        virtual_s = virtual_time.run(
            simulated(config, times, plan.learning.seconds, totals, engines, ranks), has_threads=True
        )
        wall, used = time.perf_counter() - wall, time.process_time() - used
    update_s = virtual_s / updates
    return [
        Figure("REPLs open at once, at most", totals.most_repls, ""),
        Figure("steps", totals.steps, ""),
        Figure("virtual time of an update", update_s, "s"),
        Figure("  … lzero plan", plan.update_s, "s"),
        at_most("  … differs by", abs(plan.update_s / update_s - 1), "", PLAN_REACH),
        Figure("  sequences that an engine decodes at once", totals.decoding_s / totals.busy_s, ""),
        Figure("  … lzero plan", plan.sampling.decoding, ""),
        Figure("mean seconds of a cell", totals.cell_s / totals.steps, "s"),
        Figure("engines have work in this share of the time", totals.busy_s / virtual_s / engines, ""),
        Figure("ranks learn in this share of the time", totals.learning_s / virtual_s, ""),
        Figure("  a rank waits for the slowest, at most", totals.rank_idle, ""),
        Figure("steps a second of virtual time", totals.steps / virtual_s, ""),
        Figure("processor time of the controller a step, simulation included", 1e3 * used / totals.steps, "ms"),
        at_most("  cores that the controller needs to keep up", used / virtual_s, "", CONTROLLER_REACH),
        Figure("real time of the simulation", wall, "s"),
    ]


def replace_model(config: Config) -> Config:
    """Return the configuration of the model that is planned; the bundled one stands for it in the run."""
    agent = config.agent.model_copy(update={"max_tokens": 16_384, "response_tokens": 3_072})
    model = config.model.model_copy(update={"dtype": "bfloat16"})
    train_config = config.train.model_copy(update={"micro_batch_tokens": 16_384, "gradient_checkpointing": True})
    return config.model_copy(update={"agent": agent, "model": model, "train": train_config})


async def simulated(
    config: Config, times: EngineTimes, learn_s: float, totals: Totals, engines: int, ranks: int
) -> float:
    """Return the virtual seconds of the run."""
    tokenizer = build_tokenizer()
    reply = tokenizer.encode(REPLY, add_special_tokens=False)
    fleet = Fleet([SharedEngine(times, totals) for _ in range(engines)], reply, seed=0)
    learner = Ranks(fleet, config, ranks=ranks, seconds=learn_s, totals=totals)
    run = RunDirectory.create(config)
    stream = open_stream(config, make_runner(config, fleet, totals), train_tasks(config), state={}, run=run)
    started = asyncio.get_running_loop().time()
    await train(learner, Progress(), config=config, stream=stream, run=run)
    await stream.close()
    return asyncio.get_running_loop().time() - started


def make_runner(config: Config, fleet: Fleet, totals: Totals) -> Runner:
    agent = config.agent.model_copy(
        update={"max_tokens": 4096, "response_tokens": 256, "cell_s": LONGEST_CELL_S, "work_s": 1e6}
    )
    setting = Setting(
        agent=agent,
        model=TokenModel(fleet, Renderer(build_tokenizer()), 1e6),
        pool=TailedPool(0, totals),
        deadline_s=1e7,
    )
    play = EpisodePlayer(
        scenes=Scenes(environment=Nothing(), timeout_s=60.0), agent=NotebookAgent(setting), config=agent
    )
    return Runner(play, Scorer(make_reward(RewardConfig()), is_quick=make_is_quick(RewardConfig())), config.rollout)


if __name__ == "__main__":
    main()
