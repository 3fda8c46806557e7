"""Builders and fakes for running many episodes: no model, no sandbox, no clock."""

import asyncio
import random
import sys
from collections.abc import Callable, Collection

import small_episodes

from lzero.agent.cutoff import Cutoff
from lzero.agent.setting import Ticket
from lzero.config import RolloutConfig
from lzero.rollout.runner import Runner
from lzero.rollout.scoring import Scorer
from lzero.types import Budgets, Episode, Failure, Reward, Sampling, Step, Task

ANY_SAMPLING = Sampling()
CUT_OFF = Failure(kind="straggler", what="cut off", where="step 0, sampling")


def make_task(position: int = 0, *, hops: int | None = None) -> Task:
    return Task(id=f"task-{position}", question="?", answers=("yes",), hops=hops)


def make_step(num_tokens: int = 1) -> Step:
    return small_episodes.make_step(small_episodes.make_completion((3,) * num_tokens, text="x"))


def make_episode(
    task: Task,
    ticket: Ticket | None = None,
    *,
    index: int = 0,
    answer: str | None = "yes",
    failure: Failure | None = None,
) -> Episode:
    ticket = ticket or Ticket(id=f"{task.id}/{index}", index=index, seed=0, sampling=ANY_SAMPLING)
    return Episode(
        id=ticket.id,
        task_id=task.id,
        index=ticket.index,
        seed=ticket.seed,
        sampling=ticket.sampling,
        budgets=Budgets(max_steps=1, max_tokens=10, cell_s=1.0),
        steps=(make_step(),),
        status="finished" if failure is None else "failed",
        answer=answer,
        failure=failure,
    )


def reward(task: Task, episode: Episode) -> Reward:
    score = float(episode.answer == task.answers[0])
    return Reward(score=score, per_step=(score,) * len(episode.steps), parts={"qa": (score,) * len(episode.steps)})


class Tasks:
    """A TaskSource whose tasks have ids by position, and which starts over at the end."""

    def __init__(self, length: int = 10**9) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def task(self, index: int) -> Task:
        return make_task(index % self._length, hops=index % 3 + 1)


class Shuffler:
    """Lets waiting episodes finish one at a time, in a random order."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._waiting: list[asyncio.Future[None]] = []

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        loop.call_soon(self._release)
        await future

    def _release(self) -> None:
        future = self._waiting.pop(self._random.randrange(len(self._waiting)))
        if not future.done():
            future.set_result(None)


Decide = Callable[[Task, int, int], str | Failure]
"""(task, seed, attempt from 0) → the answer, or how we broke it."""


class FakeEpisodes:
    """Runs episodes that end as `decide` says, except for those in `hanging`. Keeps the ids of all attempts, and the most that ran at
    once."""

    def __init__(self, decide: Decide, shuffler: Shuffler | None = None, *, hanging: Collection[str] = ()) -> None:
        self._decide = decide
        self._shuffler = shuffler
        self.hanging = hanging
        self.attempts: list[str] = []
        self.seeds: dict[str, set[int]] = {}
        """Of the scenes, by task."""
        self.num_running = 0
        self.most_running = 0

    async def __call__(self, task: Task, ticket: Ticket, *, seed: int) -> Episode:
        number = self.attempts.count(ticket.id)
        self.attempts.append(ticket.id)
        self.seeds.setdefault(task.id, set()).add(seed)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            async with asyncio.timeout(None) as deadline:
                with (ticket.cutoff or Cutoff(sys.maxsize)).over(deadline):
                    if ticket.id in self.hanging:
                        await asyncio.Event().wait()
                    if self._shuffler is not None:
                        await self._shuffler.turn()
                    if ticket.cutoff is not None:
                        await asyncio.sleep(0)  # where a cut-off that is reached can end it
        except TimeoutError:
            return make_episode(task, ticket, answer=None, failure=CUT_OFF)
        finally:
            self.num_running -= 1
        outcome = self._decide(task, ticket.seed, number)
        if isinstance(outcome, Failure):
            return make_episode(task, ticket, answer=None, failure=outcome)
        return make_episode(task, ticket, answer=outcome)


def make_runner(episodes: FakeEpisodes, **config: float | str) -> Runner:
    return Runner(episodes, Scorer(reward), RolloutConfig.model_validate(config))
