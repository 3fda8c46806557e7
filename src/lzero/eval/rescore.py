"""Score the stored episodes of a run with another reward, without running anything."""

import math
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from lzero.config import AlgoConfig
from lzero.errors import RewardError
from lzero.eval.statistics import correlation, mean
from lzero.rollout.concurrency import run_all
from lzero.rollout.scoring import Scorer
from lzero.store import Phase, Record, list_episodes, read_records, read_rows
from lzero.types import Episode, Reward, Task


class Rescored(Struct, frozen=True, kw_only=True):
    """Stored reward of an episode, and its reward by the other scorer."""

    phase: Phase
    update: int
    task: str
    episode: str
    answer: str | None
    score: float
    reward: float
    new_score: float | None
    """None if the other scorer failed."""
    new_reward: float | None
    problem: str = ""
    """Why the other scorer failed; "" if it did not."""


class Change(Struct, frozen=True, kw_only=True):
    """Effect of the other scorer on the scores of one evaluation or update."""

    phase: Phase
    update: int
    num_episodes: int
    num_failed: int
    """Episodes that the other scorer could not score. The means leave them out."""
    score: float
    new_score: float
    num_up: int
    """Episodes whose score rises."""
    num_down: int
    advantages: "AdvantageChange | None" = None
    """For an update: the effect on the advantages of the steps that it trained on."""


class AdvantageChange(Struct, frozen=True, kw_only=True):
    """Difference of the advantages that the other scorer would have given to an update's steps."""

    num_steps: int
    correlation: float
    """Pearson's; nan if one of the two does not vary."""
    opposite: float
    """Share of the steps whose advantage changes its sign. An advantage of 0 has a sign of its own."""


async def rescore(path: Path, scorer: Scorer, *, algo: AlgoConfig) -> AsyncIterator[tuple[Change, list[Rescored]]]:
    """Score the stored episodes again. Yield the change of each evaluation and update of the run, with its episodes.

    Leaves out episodes that failed, which have no reward.

    The estimator of `algo` computes the advantages, without a KL penalty in the reward. Raises StoreError.
    """
    seen = sorted({(line.update, line.phase) for line in list_episodes(path)})
    for update, phase in seen:
        records = list(read_records(path, phase=phase, update=update))
        rescored = [await _again(scorer, record) for record in records]
        lines = [
            line
            for record, found in zip(records, rescored, strict=True)
            for line in _lines(record, found, phase=phase, update=update)
        ]
        change = _change(lines, phase=phase, update=update)
        if phase == "train":
            change = msgspec.structs.replace(change, advantages=_advantages(path, records, rescored, update, algo))
        yield change, lines


async def _again(scorer: Scorer, record: Record) -> list[Reward | RewardError | None]:
    """Return the new reward of each episode; None for an episode that failed."""

    async def score(task: Task, episode: Episode) -> Reward | RewardError | None:
        if episode.status == "failed":
            return None
        try:
            return await scorer.score(task, episode)
        except RewardError as error:
            return error

    return await run_all(score(record.task, episode) for episode in record.episodes)


def _lines(
    record: Record, rescored: Sequence[Reward | RewardError | None], *, phase: Phase, update: int
) -> Iterator[Rescored]:
    for episode, old, new in zip(record.episodes, record.rewards, rescored, strict=True):
        if old is None:
            continue
        found = new if isinstance(new, Reward) else None
        yield Rescored(
            phase=phase,
            update=update,
            task=record.task.id,
            episode=episode.id,
            answer=episode.answer,
            score=old.score,
            reward=sum(old.per_step),
            new_score=found.score if found else None,
            new_reward=sum(found.per_step) if found else None,
            problem="" if found else str(new),
        )


def _change(lines: Sequence[Rescored], *, phase: Phase, update: int) -> Change:
    pairs = [(line.score, line.new_score) for line in lines if line.new_score is not None]
    return Change(
        phase=phase,
        update=update,
        num_episodes=len(pairs),
        num_failed=len(lines) - len(pairs),
        score=mean([old for old, _ in pairs]),
        new_score=mean([new for _, new in pairs]),
        num_up=sum(new > old for old, new in pairs),
        num_down=sum(new < old for old, new in pairs),
    )


def _advantages(
    path: Path,
    records: Sequence[Record],
    rescored: Sequence[Sequence[Reward | RewardError | None]],
    update: int,
    algo: AlgoConfig,
) -> AdvantageChange | None:
    """Compare the stored advantages of an update with those of the new rewards. Return None if none are stored, or no group is left."""
    from lzero.algo.credit import credit, make_estimator
    from lzero.algo.trajectories import trajectories

    stored = {
        (row["episode_id"], row["step"]): row["advantage"]
        for row in read_rows(path, "advantages", phase="train", update=update)
    }
    groups = [
        _rewarded(record, found).group() for record, found in zip(records, rescored, strict=True) if not record.dropped
    ]
    groups = [group for group in groups if group.episodes]
    if not stored or not groups:
        return None
    names = [episode.id for group in groups for episode in group.episodes]
    credited = credit(make_estimator(algo), trajectories(groups))
    new = {(name, step): value for name, own in zip(names, credited, strict=True) for step, value in enumerate(own)}
    return advantage_change([(stored[key], value) for key, value in new.items() if key in stored])


def advantage_change(pairs: Sequence[tuple[float, float]]) -> AdvantageChange | None:
    """Compare old and new advantages of the same steps; None for no step."""
    if not pairs:
        return None
    opposite = sum(math.copysign(1, old) != math.copysign(1, new) or (old == 0) != (new == 0) for old, new in pairs)
    return AdvantageChange(num_steps=len(pairs), correlation=correlation(pairs), opposite=opposite / len(pairs))


def _rewarded(record: Record, rescored: Sequence[Reward | RewardError | None]) -> Record:
    """Return the record with the new rewards, without the episodes that have none."""
    kept = [(episode, new) for episode, new in zip(record.episodes, rescored, strict=True) if isinstance(new, Reward)]
    return Record(
        task=record.task, episodes=tuple(each for each, _ in kept), rewards=tuple(reward for _, reward in kept)
    )
