"""What one update trains on: groups of episodes, chosen by L0's dynamic sampling.

    round 0      tasks_per_update tasks ─▶ groups ─▶ uniform ones dropped with probability drop_uniform
    round 1 …    as many tasks as will fill what is missing, by the rate so far; at most max_refills rounds
    at the end   too many: the last ones are left out; too few: the uniform ones that were dropped last are taken back

A round is judged when all of it is done, in the order of its tasks, with random numbers that follow from the seed, the update and
the task's position. So neither the concurrency nor who finishes first changes what is trained on.
"""

import logging
import random
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec
from msgspec import Struct

from lzero.config import RolloutConfig
from lzero.errors import TrainError
from lzero.protocols import TaskSource
from lzero.rollout.concurrency import run_all
from lzero.rollout.runner import Runner
from lzero.rollout.summary import failure_metrics, summarise
from lzero.seeds import derive_seed
from lzero.store import Record
from lzero.types import Group, Json, Sampling

logger = logging.getLogger(__name__)

UNIFORM = ("all_zero", "all_one")
"""Drop reasons of dynamic sampling: such a group teaches little, and may be taken back."""
TOO_FEW = "too_few"
"""Drop reason of a group that failures left with fewer than two episodes (or none, where groups have one)."""

SURPLUS = "surplus"
"""Drop reason of the last groups of a refill that brought more than were missing."""


class Collected(Struct, frozen=True, kw_only=True):
    """What `Collector.collect` found."""

    groups: tuple[Group, ...]
    """To train on, in the order of their tasks."""
    records: tuple[Record, ...]
    """Every task that was tried, in order, dropped ones and failed episodes included."""
    metrics: dict[str, float]


class Collector:
    """Takes tasks from `source` in order, without end: a file's source starts over by itself, in an order of its own.

    `state` is what a checkpoint holds of it: `next_task`, the position of the first task that no update has used. A run that resumes
    passes it back in.
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
        self._runner = runner
        self._source = source
        self._config = config
        self._seed = seed
        self._sampling = Sampling(temperature=config.temperature)
        next_task = state.get("next_task", 0)
        assert isinstance(next_task, int)
        self._next_task = next_task

    @property
    def state(self) -> dict[str, Json]:
        """What the next update depends on, but for its number."""
        return {"next_task": self._next_task}

    async def collect(self, update: int) -> Collected:
        """Run the episodes of one update. Raises TrainError when no group is left, or too many episodes failed."""
        start = time.monotonic()
        wanted = self._config.tasks_per_update
        records: list[Record] = []
        for _ in range(1 + self._config.max_refills):
            num_tasks = tasks_to_try(records, wanted)
            if not num_tasks:
                break
            records += await self._round(update, num_tasks)
        records, num_taken_back = take_back(leave_out(records, wanted), wanted)
        groups = tuple(record.group() for record in records if not record.dropped)
        if not groups:
            raise TrainError(f"update {update}: every one of {len(records)} groups lost its episodes to failures")
        if num_taken_back or len(groups) < wanted:
            logger.info(
                "update %d: after %d tasks, %d of %d groups are uniform ones taken back, %d are missing",
                update,
                len(records),
                num_taken_back,
                wanted,
                wanted - len(groups),
            )
        metrics = self._metrics(records, num_taken_back, seconds=time.monotonic() - start)
        return Collected(groups=groups, records=tuple(records), metrics=metrics)

    async def _round(self, update: int, num_tasks: int) -> list[Record]:
        positions = range(self._next_task, self._next_task + num_tasks)
        records = await run_all(self._record(update, position) for position in positions)
        self._next_task += num_tasks
        judged = []
        for position, record in zip(positions, records, strict=True):
            chance = random.Random(derive_seed(self._seed, "drop", update, position)).random()
            judged.append(msgspec.structs.replace(record, dropped=drop_reason(record, chance, self._config)))
        return judged

    async def _record(self, update: int, position: int) -> Record:
        return await self._runner.record(
            self._source.task(position),
            name=f"train-{update}/{position}",
            num_episodes=self._config.episodes_per_task,
            sampling=self._sampling,
            seed=derive_seed(self._seed, "train", update, position),
        )

    def _metrics(self, records: Sequence[Record], num_taken_back: int, *, seconds: float) -> dict[str, float]:
        metrics = summarise(records) | failure_metrics(self._runner.take_failures())
        metrics["groups/taken_back"] = float(num_taken_back)
        metrics["time/rollout_s"] = seconds
        metrics["rollout/tokens_per_s"] = metrics.get("rollout/tokens", 0.0) / max(seconds, 1e-9)
        return metrics


def drop_reason(record: Record, chance: float, config: RolloutConfig) -> str:
    """Why the group is not trained on, or "". `chance` is uniform in [0, 1).

    A group that lost episodes to our failures keeps the rest while two are left. Scores of a single episode are not judged:
    they say nothing about how hard the task is.
    """
    scores = record.scores
    if len(scores) < min(2, config.episodes_per_task):
        return TOO_FEW
    if len(scores) == 1 or chance >= config.drop_uniform:
        return ""
    for value, reason in zip((0.0, 1.0), UNIFORM, strict=True):
        if all(score == value for score in scores):
            return reason
    return ""


def tasks_to_try(records: Sequence[Record], wanted: int) -> int:
    """How many tasks the next round takes. Asking for no more than is missing would take several rounds, and a round is as
    slow as its slowest episode; so it asks for what, at the share of groups kept so far, will be enough, but for no more than `wanted`."""
    if not records:
        return wanted
    num_kept = sum(not record.dropped for record in records)
    missing = wanted - num_kept
    if missing <= 0:
        return 0
    return min(wanted, max(1, round(missing * len(records) / max(num_kept, 1))))


def leave_out(records: Sequence[Record], wanted: int) -> list[Record]:
    """The records with the last groups, those beyond `wanted`, dropped."""
    kept = [place for place, record in enumerate(records) if not record.dropped]
    surplus = set(kept[wanted:])
    return [
        msgspec.structs.replace(record, dropped=SURPLUS) if place in surplus else record
        for place, record in enumerate(records)
    ]


def take_back(records: Sequence[Record], wanted: int) -> tuple[list[Record], int]:
    """The records with as many uniform groups taken back, the last ones first, as are missing; and their number."""
    missing = wanted - sum(not record.dropped for record in records)
    uniform = [place for place, record in enumerate(records) if record.dropped in UNIFORM]
    chosen = set(uniform[len(uniform) - missing :] if missing < len(uniform) else uniform)
    taken = [
        msgspec.structs.replace(record, dropped="") if place in chosen else record
        for place, record in enumerate(records)
    ]
    return taken, len(chosen)
