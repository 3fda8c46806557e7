"""Fakes for running many episodes: no model, no sandbox, no clock."""

import asyncio
import random
import sys
from collections.abc import Callable, Collection

from builders import make_attempt, numbered_task, reward_of

from lzero.agent.cutoff import Cutoff
from lzero.agent.setting import Ticket
from lzero.config import RolloutConfig
from lzero.rollout.runner import Runner
from lzero.rollout.scoring import Scorer
from lzero.types import Episode, Failure, Task

CUT_OFF = Failure(kind="straggler", what="cut off", where="step 0, sampling")


def attempted(task: Task, ticket: Ticket, answer: str | None, *, failure: Failure | None = None) -> Episode:
    """Return the episode of a ticket."""
    same = {"id": ticket.id, "seed": ticket.seed, "sampling": ticket.sampling}
    return make_attempt(task, answer, index=ticket.index, failure=failure, **same)


class Tasks:
    """A TaskSource whose tasks have ids by position, and which starts over at the end."""

    def __init__(self, length: int = 10**9) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def task(self, index: int) -> Task:
        return numbered_task(index % self._length, hops=index % 3 + 1)


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
            return attempted(task, ticket, None, failure=CUT_OFF)
        finally:
            self.num_running -= 1
        outcome = self._decide(task, ticket.seed, number)
        if isinstance(outcome, Failure):
            return attempted(task, ticket, None, failure=outcome)
        return attempted(task, ticket, outcome)


def make_runner(episodes: FakeEpisodes, **config: float | str) -> Runner:
    return Runner(episodes, Scorer(reward_of), RolloutConfig.model_validate(config))
