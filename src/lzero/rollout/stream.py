"""Collect the groups of episodes that one update trains on, chosen by dynamic sampling.

    round 0      tasks_per_update tasks ─▶ groups ─▶ drop those that teach little, by rollout.filter
    round 1 …    as many tasks as should fill the gap, by the rate so far; at most max_refills rounds
    at the end   too many groups: leave the last ones out; too few: L0's rule takes back the last dropped uniform ones

A round is judged when all of it is done, in the order of its tasks, with random numbers that depend on the seed and the task's position. So
neither the concurrency nor the order of completion changes the training data. Only `rollout.stragglers` gives that up, for rounds that do
not wait for their slowest episodes.
"""

import math
import random
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec
from msgspec import Struct

from lzero.agent.cutoff import Cutoff
from lzero.config import RolloutConfig
from lzero.errors import StoreError
from lzero.protocols import TaskSource
from lzero.rollout.batch import Collected, make_batch
from lzero.rollout.concurrency import run_all
from lzero.rollout.curriculum import TaskOrder
from lzero.rollout.filters import drop_reason, tasks_to_try
from lzero.rollout.runner import Runner
from lzero.seeds import derive_seed
from lzero.store import Record
from lzero.types import Json, Sampling


class GroupMaker:
    """Makes the group of a task. A group depends on the task, its position in the order of training, the run's seed and the policy."""

    def __init__(self, runner: Runner, source: TaskSource, *, config: RolloutConfig, seed: int) -> None:
        self._runner, self._source, self._config, self._seed = runner, source, config, seed

    async def make(self, position: int, index: int, *, cutoff: Cutoff | None = None) -> Record:
        """Return the judged record of the source's task `index`, at a position. Raises TrainError if too many episodes failed."""
        record = await self._runner.record(
            self._source.task(index),
            name=f"train/{position}",
            num_episodes=self._config.episodes_per_task,
            sampling=Sampling(temperature=self._config.temperature),
            seed=derive_seed(self._seed, "train", position),
            cutoff=cutoff,
        )
        chance = random.Random(derive_seed(self._seed, "drop", position)).random()
        return msgspec.structs.replace(record, dropped=drop_reason(record, chance, self._config))


class StreamState(Struct, frozen=True, forbid_unknown_fields=True):
    """The validated state of a stream of groups."""

    next_task: int = 0
    """Position of the first task that no batch has taken."""
    pass_rates: dict[str, tuple[float, float]] = {}
    """Pass rates by task, for `rollout.curriculum`."""
    begun: tuple[tuple[int, int], ...] = ()
    """Position and task of each group that was begun, but that no batch has taken (`rollout.max_lag`)."""
    max_lag: int | None = None
    """The limit of the lag, which may be lower than `rollout.max_lag`; None without lag."""


def read_state(state: Mapping[str, Json]) -> StreamState:
    """Return the validated state. Raises StoreError."""
    try:
        return msgspec.convert(dict(state), StreamState)
    except msgspec.ValidationError as error:
        raise StoreError(f"cannot restore the checkpoint's position among the tasks: {error}") from None


class SynchronousStream:
    """Samples all groups of an update while the policy does not change, so each token is drawn by the policy that learns from it.

    It takes tasks from `source` in the order of `TaskOrder`. A checkpoint holds `state`: `next_task`, the number of tasks taken, and their
    pass rates. A resumed run passes it back in. Raises ConfigError for a curriculum over tasks that never repeat, StoreError for an invalid
    state.
    """

    max_lag = 0

    def __init__(
        self,
        runner: Runner,
        source: TaskSource,
        *,
        config: RolloutConfig,
        seed: int,
        state: Mapping[str, Json] = MappingProxyType({}),
    ) -> None:
        found = read_state(state)
        self._runner = runner
        self._config = config
        self._order = TaskOrder(source, config=config, seed=seed, pass_rates=found.pass_rates)
        self._groups = GroupMaker(runner, source, config=config, seed=seed)
        self._next_task = found.next_task

    @property
    def state(self) -> dict[str, Json]:
        """The state that the next update depends on, except for its number."""
        return {"next_task": self._next_task, **self._order.state}

    def published(self, version: int) -> None:
        """Do nothing: no episode begins before `take`."""

    def limit(self, lag: int) -> None:
        """Do nothing: there is no lag."""

    async def saved(self, state: Mapping[str, Json]) -> None:
        """Do nothing: a resumed run samples the groups since its checkpoint again."""

    async def close(self) -> None:
        """Do nothing: no episode runs between two calls of `take`."""

    async def take(self, update: int) -> Collected:
        """Run the episodes of one update. Raises TrainError if no group is left, or too many episodes failed."""
        start = time.monotonic()
        records, expected = await self._rounds()
        seconds = time.monotonic() - start
        batch = make_batch(update, records, config=self._config, runner=self._runner, seconds=seconds)
        return msgspec.structs.replace(batch, metrics=batch.metrics | expected)

    async def _rounds(self) -> tuple[list[Record], dict[str, float]]:
        """Return the judged record of every task that was tried, and the curriculum's metrics of the first round."""
        records: list[Record] = []
        tried: list[int] = []
        expected: dict[str, float] = {}
        for _ in range(1 + self._config.max_refills):
            num_tasks = tasks_to_try(records, self._config.tasks_per_update)
            if not num_tasks:
                break
            indices = self._order.indices(self._next_task, num_tasks, without=tried)
            expected = expected or self._order.metrics(indices)
            tried += indices
            records += await self._round(indices)
        return records, expected

    async def _round(self, indices: Sequence[int]) -> list[Record]:
        positions = range(self._next_task, self._next_task + len(indices))
        num_episodes = len(indices) * self._config.episodes_per_task
        share = self._config.stragglers
        cutoff = Cutoff(math.ceil(share * num_episodes)) if share > 0 else None
        records = await run_all(
            self._groups.make(position, index, cutoff=cutoff)
            for position, index in zip(positions, indices, strict=True)
        )
        self._next_task += len(indices)
        for index, record in zip(indices, records, strict=True):
            self._order.saw(index, record.scores)
        return records
