"""Gain of sampling while the learner learns: `python benchmarks/pipeline.py [--json] [--updates 12] [--max-lag 1]`.

The training loop, the stream, the agent and the records are lzero's own. Engines, REPLs and the learner answer after simulated waits: cells
have a long tail, as tool calls do, and learning takes as long as sampling a batch takes without lag. The yardstick is `rollout.max_lag = 0`
in the same run.
"""

import argparse
import asyncio
import json
import logging
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict

from agent import REPLY
from controller import SlowEngine, SlowPool, Waits
from figures import Figure, at_least, table

from lzero.agent.conversation import TokenModel
from lzero.agent.episode import NotebookAgent
from lzero.agent.playing import EpisodePlayer
from lzero.agent.renderer import Renderer
from lzero.agent.scenes import Scenes
from lzero.agent.setting import Setting
from lzero.config import Config, RewardConfig, load_config
from lzero.environments.stateless import Nothing
from lzero.models import build_tokenizer, load_model, load_tokenizer, resolve
from lzero.rewards import make_reward
from lzero.rewards.l0 import make_is_quick
from lzero.rollout.compose import open_stream, train_tasks
from lzero.rollout.runner import Runner
from lzero.rollout.scoring import Scorer
from lzero.store import RunDirectory
from lzero.train.checkpoint import Progress, Snapshot, take_snapshot
from lzero.train.loop import train
from lzero.types import Completion, Group, Sampling

TASKS, EPISODES = 16, 4
STEPS = 4
SLOW_CELL_S, SLOW_CELLS = 1.5, 0.02
"""Seconds and share of the cells in the tail; the others take 0.02 s on average."""
REACH = 1.6


class TailedWaits(Waits):
    """Waits of engines of 0.15 s on average, and of cells with a long tail."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._tail = random.Random(seed + 1)

    async def __call__(self, mean_s: float) -> None:
        is_cell = mean_s < 1.0
        slow = is_cell and self._tail.random() < SLOW_CELLS
        await asyncio.sleep(self._tail.uniform(1.0, 3.0) * SLOW_CELL_S if slow else 0.0)
        await super().__call__(0.02 if is_cell else 0.15)


class VersionedEngine(SlowEngine):
    """An engine whose tokens carry the version that was published last."""

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        done = await super().sample(ids, sampling, request_id=request_id, affinity=affinity, deadline_s=deadline_s)
        return Completion(
            token_ids=done.token_ids,
            logprobs=done.logprobs,
            text=done.text,
            stop_reason=done.stop_reason,
            versions=((self.version, done.num_tokens),),
        )


class SlowLearner:
    """A learner that waits. Implements `Learner`; its checkpoints hold the bundled model."""

    skipped_in_a_row = 0

    def __init__(self, engine: VersionedEngine, config: Config, seconds: float) -> None:
        self._engine, self._config, self._seconds = engine, config, seconds
        path = resolve(config.model.path)
        self._model, self._tokenizer = load_model(path, dtype="float32", device="cpu"), load_tokenizer(path)

    async def learn(self, groups: Sequence[Group], *, update: int) -> dict[str, float]:
        await asyncio.sleep(self._seconds)
        return {}

    async def publish(self, *, version: int) -> dict[str, float]:
        self._engine.version = version
        return {}

    async def close(self) -> None: ...

    def snapshot(self, progress: Progress, score: float | None) -> Snapshot:
        return take_snapshot(self._model, self._tokenizer, [], config=self._config, progress=progress, score=score)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--max-lag", type=int, default=1)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    figures = measure(arguments.updates, arguments.max_lag)
    print(json.dumps([asdict(figure) for figure in figures]) if arguments.json else table(figures))


def measure(updates: int, max_lag: int) -> list[Figure]:
    sampling_s = asyncio.run(seconds(4, 0, 0.0)) / 4
    waiting_s = asyncio.run(seconds(updates, 0, sampling_s))
    lagging_s = asyncio.run(seconds(updates, max_lag, sampling_s))
    return [
        Figure("sampling a batch, and learning from it, each", sampling_s, "s"),
        Figure(f"{updates} updates, max_lag 0", waiting_s, "s"),
        Figure(f"{updates} updates, max_lag {max_lag}", lagging_s, "s"),
        at_least(f"max_lag {max_lag} against 0: wall time", waiting_s / lagging_s, "×", REACH),
    ]


async def seconds(updates: int, max_lag: int, learn_s: float) -> float:
    """Return the wall seconds of a training run."""
    tokenizer = build_tokenizer()
    with tempfile.TemporaryDirectory() as directory:
        config = load_config(
            overrides=[
                f"run.dir={directory}/run",
                f"rollout.max_lag={max_lag}",
                f"rollout.tasks_per_update={TASKS}",
                f"rollout.episodes_per_task={EPISODES}",
                "rollout.filter=none",
                f"train.updates={updates}",
                f"train.checkpoint_every={updates}",
                f"agent.max_steps={STEPS}",
            ]
        )
        waits = TailedWaits(0)
        engine = VersionedEngine(tokenizer.encode(REPLY, add_special_tokens=False), waits)
        learner = SlowLearner(engine, config, learn_s)
        run = RunDirectory.create(config)
        stream = open_stream(config, make_runner(config, engine, waits), train_tasks(config), state={}, run=run)
        started = time.monotonic()
        await train(learner, Progress(), config=config, stream=stream, run=run)
        await stream.close()
        return time.monotonic() - started


def make_runner(config: Config, engine: VersionedEngine, waits: Waits) -> Runner:
    agent = config.agent.model_copy(update={"max_tokens": 4096, "response_tokens": 256})
    setting = Setting(
        agent=agent,
        model=TokenModel(engine, Renderer(build_tokenizer()), 600.0),
        pool=SlowPool(waits),
        deadline_s=3600.0,
    )
    play = EpisodePlayer(
        scenes=Scenes(environment=Nothing(), timeout_s=60.0), agent=NotebookAgent(setting), config=agent
    )
    return Runner(play, Scorer(make_reward(RewardConfig()), is_quick=make_is_quick(RewardConfig())), config.rollout)


if __name__ == "__main__":
    main()
