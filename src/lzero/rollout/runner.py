"""Run episodes of tasks, many at once, and retry one that fails.

record ─▶ attempt ─▶ scored                        the agent's work, right or wrong
          ▲  │ failed
          │  ├── its pool server was lost: again, on another one (MOVES times)
          └──┘
             │ any other failure
             ▼
          attempt, in a fresh kernel ─▶ scored
             │ failed
             ▼
          kept as failed, without a reward: counted, never trained on
"""

import asyncio
import logging
from typing import Protocol

import msgspec

from lzero.agent.cutoff import Cutoff
from lzero.agent.outputs import plain_text
from lzero.agent.setting import Ticket
from lzero.config import RolloutConfig
from lzero.errors import RewardError
from lzero.rollout.concurrency import run_all
from lzero.rollout.failures import CircuitBreaker, Failing, TaskFailures
from lzero.rollout.scoring import Scorer
from lzero.seeds import derive_seed
from lzero.store import Record
from lzero.types import Display, Episode, Execution, Failure, Output, Result, Reward, Sampling, Task

logger = logging.getLogger(__name__)

RICH_CHARS = 4_000_000
"""The most characters of images, tables and JSON in the outputs of one episode (images in Base64): about ten figures."""
ATTEMPTS = 2
"""Number of attempts at an episode: one that fails through lzero is retried once."""
MOVES = 8
"""Number of times that an episode may lose its pool server, without a count on its attempts or on the failure limit."""


def with_bounded_outputs(episode: Episode) -> Episode:
    """Return the episode with at most RICH_CHARS characters of images, tables and JSON. Further values keep only the text that the model
    reads."""
    room = RICH_CHARS

    def keep(output: Output) -> Output:
        nonlocal room
        if not isinstance(output, Result | Display):
            return output
        rich = sum(len(text) for mime, text in output.data.items() if mime != "text/plain")
        if rich > room:
            return msgspec.structs.replace(output, data={"text/plain": plain_text(output)})
        room -= rich
        return output

    def of(execution: Execution | None) -> Execution | None:
        if execution is None:
            return None
        return msgspec.structs.replace(execution, outputs=tuple(map(keep, execution.outputs)))

    steps = tuple(msgspec.structs.replace(step, execution=of(step.execution)) for step in episode.steps)
    return msgspec.structs.replace(episode, steps=steps)


class RunEpisode(Protocol):
    """One attempt at a task (`lzero.agent.playing.EpisodePlayer`)."""

    async def __call__(self, task: Task, ticket: Ticket, *, seed: int) -> Episode:
        """Return the episode, as failed if lzero broke it. Never runs longer than its deadline. `seed`: the group's."""


class Runner:
    """Runs episodes, at most `concurrency` at once, in the order of the calls."""

    def __init__(
        self, run_episode: RunEpisode, scorer: Scorer, config: RolloutConfig, *, slots: asyncio.Semaphore | None = None
    ) -> None:
        self._run_episode = run_episode
        self.scorer = scorer
        self._config = config
        self._slots = slots or asyncio.Semaphore(config.concurrency)
        self._breaker = CircuitBreaker(max_rate=config.max_failure_rate)

    def beside(self) -> "Runner":
        """Return a runner that shares the limit of concurrent episodes, and counts its own failures and questions to a judge."""
        return Runner(self._run_episode, self.scorer.beside(), self._config, slots=self._slots)

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
        """Return the record of all episodes of a task. Their ids are `name`/0, `name`/1, …; their seeds follow from `seed`.

        Episodes that still run when `cutoff` is reached end there, as failures of the kind "straggler". Raises TrainError if too many of
        the last episodes failed; the caller must then cancel the episodes that still run.
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
            # Outside of the slot: a slow judge delays no other episode.
            episode, reward = await self._score(task, episode)
            return with_bounded_outputs(episode), reward

        pairs = await run_all(run(index) for index in range(num_episodes))
        return Record(
            task=task, episodes=tuple(episode for episode, _ in pairs), rewards=tuple(reward for _, reward in pairs)
        )

    def take_failures(self) -> Failing:
        """Return the failed attempts since the last call, those with a successful retry included."""
        return self._breaker.take()

    def take_failures_of(self, task: Task) -> TaskFailures:
        """Return the failed attempts at one task since the last call; `take_failures` does not return them again."""
        return self._breaker.take_task(task.id)

    async def _run(self, task: Task, ticket: Ticket, seed: int) -> Episode:
        number, moves = 1, 0
        while True:
            episode = await self._run_episode(task, ticket, seed=derive_seed(seed, "scene"))
            if episode.failure is None:
                return episode
            moved = episode.failure.kind == "pool" and moves < MOVES
            self._breaker.saw(episode, counts=not moved)
            if episode.failure.kind == "straggler":
                return episode
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
            moves += moved
            number += not moved
            if number > ATTEMPTS:
                return episode

    async def _score(self, task: Task, episode: Episode) -> tuple[Episode, Reward | None]:
        """Return the episode with its reward, or as failed. A scorer that fails is not called again, because it would fail again."""
        reward = None
        if episode.failure is None:
            try:
                reward = await self.scorer.score(task, episode)
            except RewardError as error:
                failure = Failure(kind="reward", what=str(error), where=f"scoring task {task.id}")
                episode = msgspec.structs.replace(episode, status="failed", failure=failure)
            self._breaker.saw(episode)
        return episode, reward
