"""Collect the groups of episodes that one update trains on, chosen by dynamic sampling.

    round 0      tasks_per_update tasks ─▶ groups ─▶ drop those that teach little, by rollout.filter
    round 1 …    as many tasks as should fill the gap, by the rate so far; at most max_refills rounds
    at the end   too many groups: leave the last ones out; too few: L0's rule takes back the last dropped uniform ones

A round is judged when all of it is done, in the order of its tasks, with random numbers that depend on the seed and the task's position. So
neither the concurrency nor the order of completion changes the training data. Only `rollout.stragglers` gives that up, for rounds that do
not wait for their slowest episodes.
"""

import logging
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec
from msgspec import Struct

from lzero.agent.cutoff import Cutoff
from lzero.config import RolloutConfig
from lzero.errors import StoreError, TrainError
from lzero.protocols import TaskSource
from lzero.rollout.concurrency import run_all
from lzero.rollout.curriculum import PassRates, check_curriculum
from lzero.rollout.failures import Failing, explain
from lzero.rollout.filters import drop_reason, drops, leave_out, take_back, tasks_to_try
from lzero.rollout.runner import Runner
from lzero.rollout.summary import summarise
from lzero.seeds import derive_seed
from lzero.store import Record
from lzero.types import Group, Json, Sampling

logger = logging.getLogger(__name__)


class Collected(Struct, frozen=True, kw_only=True):
    """Result of `SynchronousStream.take`."""

    groups: tuple[Group, ...]
    """Groups to train on, in the order of their tasks."""
    records: tuple[Record, ...]
    """Every task that was tried, in order, with dropped ones and failed episodes."""
    metrics: dict[str, float]
    failing: Failing = Failing()
    """Failed attempts by task."""


class StreamState(Struct, frozen=True, forbid_unknown_fields=True):
    """The validated `SynchronousStream.state`."""

    next_task: int = 0
    pass_rates: dict[str, tuple[float, float]] = {}


class SynchronousStream:
    """Samples all groups of an update while the policy does not change, so each token is drawn by the policy that learns from it.

    It takes tasks from `source` in order, without end (a file's source starts each epoch in a new order), or as `rollout.curriculum` draws
    them. A checkpoint holds `state`: `next_task`, the number of tasks taken, and their pass rates. A resumed run passes it back in. Raises
    ConfigError for a curriculum over tasks that never repeat, StoreError for an invalid state.
    """

    def __init__(
        self,
        runner: Runner,
        source: TaskSource,
        *,
        config: RolloutConfig,
        seed: int,
        state: Mapping[str, Json] = MappingProxyType({}),
    ) -> None:
        check_curriculum(config, source)
        self._runner = runner
        self._source = source
        self._config = config
        self._seed = seed
        self._sampling = Sampling(temperature=config.temperature)
        try:
            found = msgspec.convert(dict(state), StreamState)
        except msgspec.ValidationError as error:
            raise StoreError(f"cannot restore the checkpoint's position among the tasks: {error}") from None
        self._next_task = found.next_task
        self._pass_rates: PassRates | None = None
        if config.curriculum == "pass_rate":
            self._pass_rates = PassRates(len(source), state=found.pass_rates)

    @property
    def state(self) -> dict[str, Json]:
        """The state that the next update depends on, except for its number."""
        if self._pass_rates is None:
            return {"next_task": self._next_task}
        return {"next_task": self._next_task, "pass_rates": self._pass_rates.state()}

    def published(self, version: int) -> None:
        """Do nothing: no episode begins before `take`."""

    async def close(self) -> None:
        """Do nothing: no episode runs between two calls of `take`."""

    async def take(self, update: int) -> Collected:
        """Run the episodes of one update. Raises TrainError if no group is left, or too many episodes failed."""
        start = time.monotonic()
        wanted = self._config.tasks_per_update
        records, expected = await self._rounds()
        records, num_taken_back = leave_out(records, wanted), 0
        if self._config.filter == "l0":
            records, num_taken_back = take_back(records, wanted)
        groups = tuple(record.group() for record in records if not record.dropped)
        if not groups:
            raise TrainError(_nothing_left(update, records))
        self._tell_of_a_short_batch(update, records, groups, num_taken_back)
        failing = self._runner.take_failures()
        _tell_of_failing_tasks(update, failing)
        metrics = self._metrics(update, records, groups, seconds=time.monotonic() - start) | failing.metrics()
        return Collected(
            groups=groups,
            records=tuple(records),
            metrics={**metrics, **expected, "groups/taken_back": float(num_taken_back)},
            failing=failing,
        )

    async def _rounds(self) -> tuple[list[Record], dict[str, float]]:
        """Return the judged record of every task that was tried, and the curriculum's metrics of the first round."""
        records: list[Record] = []
        tried: list[int] = []
        expected: dict[str, float] = {}
        for _ in range(1 + self._config.max_refills):
            num_tasks = tasks_to_try(records, self._config.tasks_per_update)
            if not num_tasks:
                break
            indices = self._next_tasks(num_tasks, tried)
            if self._pass_rates is not None:
                expected = expected or self._pass_rates.metrics(indices)
            tried += indices
            records += await self._round(indices)
        return records, expected

    def _next_tasks(self, num_tasks: int, tried: Sequence[int]) -> list[int]:
        if self._pass_rates is None:
            return list(range(self._next_task, self._next_task + num_tasks))
        seed = derive_seed(self._seed, "curriculum", self._next_task)
        return self._pass_rates.draw(num_tasks, seed=seed, without=tried)

    async def _round(self, indices: Sequence[int]) -> list[Record]:
        positions = range(self._next_task, self._next_task + len(indices))
        num_episodes = len(indices) * self._config.episodes_per_task
        share = self._config.stragglers
        cutoff = Cutoff(math.ceil(share * num_episodes)) if share > 0 else None
        records = await run_all(
            self._record(position, index, cutoff) for position, index in zip(positions, indices, strict=True)
        )
        self._next_task += len(indices)
        judged = []
        for position, index, record in zip(positions, indices, records, strict=True):
            chance = random.Random(derive_seed(self._seed, "drop", position)).random()
            judged.append(msgspec.structs.replace(record, dropped=drop_reason(record, chance, self._config)))
            if self._pass_rates is not None:
                self._pass_rates.saw(index, record.scores)
        return judged

    async def _record(self, position: int, index: int, cutoff: Cutoff | None) -> Record:
        return await self._runner.record(
            self._source.task(index),
            name=f"train/{position}",
            num_episodes=self._config.episodes_per_task,
            sampling=self._sampling,
            seed=derive_seed(self._seed, "train", position),
            cutoff=cutoff,
        )

    def _tell_of_a_short_batch(
        self, update: int, records: Sequence[Record], groups: Sequence[Group], num_taken_back: int
    ) -> None:
        """Log a warning if the batch is smaller than wanted, and a message if groups were taken back."""
        wanted, num_episodes = self._config.tasks_per_update, sum(len(group.episodes) for group in groups)
        wanted_episodes = wanted * self._config.episodes_per_task
        if num_taken_back:
            logger.info("update %d: took back %d of %d groups, all uniform", update, num_taken_back, len(groups))
        if num_episodes < wanted_episodes:
            logger.warning(
                "update %d trains on %d of %d groups and %d of %d episodes; it tried %d groups and dropped: %s",
                update,
                len(groups),
                wanted,
                num_episodes,
                wanted_episodes,
                len(records),
                drops(records),
            )

    def _metrics(
        self, update: int, records: Sequence[Record], groups: Sequence[Group], *, seconds: float
    ) -> dict[str, float]:
        metrics = summarise(records) | self._runner.scorer.take_metrics()
        num_episodes = sum(len(group.episodes) for group in groups)
        metrics["groups/missing"] = float(self._config.tasks_per_update - len(groups))
        metrics["groups/missing_episodes"] = float(len(groups) * self._config.episodes_per_task - num_episodes)
        metrics["rollout/lag"] = mean_lag(groups, update)
        metrics["time/rollout_s"] = seconds
        metrics["rollout/tokens_per_s"] = metrics.get("rollout/tokens", 0.0) / max(seconds, 1e-9)
        return metrics


def mean_lag(groups: Sequence[Group], update: int) -> float:
    """Return the mean number of updates between the policy that drew a token and the one that learns from it."""
    counts: Counter[int] = sum((group.versions for group in groups), Counter())
    return sum((update - version) * count for version, count in counts.items()) / max(1, counts.total())


def _tell_of_failing_tasks(update: int, failing: Failing) -> None:
    """Log a warning about tasks whose episodes keep failing: their answers are never scored, and a policy may learn to fail."""
    often = [str(each) for each in failing.worst if each.often]
    if often:
        logger.warning(
            "update %d: attempts failed at %d of %d tasks, again and again at %s; lzero show RUN --failed lists them",
            update,
            failing.failing_tasks,
            failing.tasks,
            "; ".join(often),
        )


def _nothing_left(update: int, records: Sequence[Record]) -> str:
    if not any(record.scores for record in records):
        failures = [episode.failure for record in records for episode in record.episodes if episode.failure]
        return f"update {update}: all {len(records)} groups lost their episodes to failures: {explain(failures)}"
    return (
        f"update {update}: none of {len(records)} groups is left to train on; dropped: {drops(records)}. "
        'Raise rollout.max_refills, choose tasks of another difficulty, or try rollout.filter = "l0"'
    )
