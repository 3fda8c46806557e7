"""Episodes of tasks, many at once, and what happens when one of them breaks.

record ─▶ attempt ─▶ scored                        what the agent did, right or wrong
             │ failed
             ▼
          attempt, in a fresh kernel ─▶ scored
             │ failed
             ▼
          kept as failed, without a reward: counted, never trained on
"""

import asyncio
import logging
from pathlib import Path
from typing import Protocol

import msgspec

from lzero.agent.cutoff import Cutoff
from lzero.agent.episode import Ticket
from lzero.config import RolloutConfig
from lzero.errors import RewardError
from lzero.rollout.concurrency import run_all
from lzero.rollout.failures import CircuitBreaker, Failing
from lzero.rollout.scoring import Scorer
from lzero.seeds import derive_seed
from lzero.store import Record
from lzero.types import Episode, Failure, Reward, Sampling, Task

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""How often an episode is begun: what we broke is tried once more."""


class RunEpisode(Protocol):
    """One attempt at a task (`lzero.agent.playing.Play`)."""

    async def __call__(self, task: Task, ticket: Ticket, *, seed: int) -> Episode:
        """Return what we broke as a failed episode; never run longer than its deadline. `seed` is that of the group."""


class Runner:
    """Runs episodes, at most `concurrency` at once, first come, first served."""

    def __init__(self, run_episode: RunEpisode, scorer: Scorer, config: RolloutConfig) -> None:
        self._run_episode = run_episode
        self._scorer = scorer
        self._slots = asyncio.Semaphore(config.concurrency)
        self._breaker = CircuitBreaker(max_rate=config.max_failure_rate)

    async def record(
        self,
        task: Task,
        *,
        name: str,
        num_episodes: int,
        sampling: Sampling,
        seed: int,
        cutoff: Cutoff | None = None,
    ) -> Record:
        """All episodes of a task. Their ids are `name`/0, `name`/1, …; their seeds follow from `seed`. Those that are under way when
        `cutoff` is reached end there, as failures of the kind "straggler".

        Raises TrainError when too many of the last episodes failed; the episodes that still run are then the caller's to cancel.
        """

        async def run(index: int) -> tuple[Episode, Reward | None]:
            async with self._slots:
                ticket = Ticket(
                    id=f"{name}/{index}",
                    index=index,
                    seed=derive_seed(seed, "episode", index),
                    sampling=sampling,
                    cutoff=cutoff,
                )
                episode = await self._run(task, ticket, seed)
            if cutoff is not None:
                cutoff.arrived()
            return await self._score(task, episode)  # outside of the slot: a slow judge keeps no other episode waiting

        pairs = await run_all(run(index) for index in range(num_episodes))
        return Record(
            task=task, episodes=tuple(episode for episode, _ in pairs), rewards=tuple(reward for _, reward in pairs)
        )

    def take_failures(self) -> dict[str, int]:
        """Failed attempts by kind since the last call, those that a second attempt mended included."""
        return self._breaker.take_counts()

    def take_metrics(self) -> dict[str, float]:
        """What scoring counted since the last call."""
        return self._scorer.take_metrics()

    def keep_verdicts(self, directory: Path) -> None:
        """Have a judge's verdicts kept in the directory of a run. Raises StoreError."""
        self._scorer.keep_verdicts(directory)

    def take_failing(self) -> Failing:
        """Failed attempts by task since the last call."""
        return self._breaker.take_failing()

    async def _run(self, task: Task, ticket: Ticket, seed: int) -> Episode:
        for number in range(1, ATTEMPTS + 1):
            episode = await self._run_episode(task, ticket, seed=derive_seed(seed, "scene"))
            if episode.failure is None:
                break
            self._breaker.saw(episode)
            if episode.failure.kind == "straggler":
                break
            logger.warning(
                "episode %s of task %s, attempt %d of %d: %s failed at %s: %s",
                ticket.id,
                task.id,
                number,
                ATTEMPTS,
                episode.failure.kind,
                episode.failure.where,
                episode.failure.what,
            )
        return episode

    async def _score(self, task: Task, episode: Episode) -> tuple[Episode, Reward | None]:
        """Return the episode with its reward, or as failed. A scorer that fails is not called again, because it would fail again."""
        reward = None
        if episode.failure is None:
            try:
                reward = await self._scorer.score(task, episode)
            except RewardError as error:
                failure = Failure(kind="reward", what=str(error), where=f"scoring task {task.id}")
                episode = msgspec.structs.replace(episode, status="failed", failure=failure)
            self._breaker.saw(episode)
        return episode, reward
