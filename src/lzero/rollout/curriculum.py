"""Choose the next tasks: each in turn, or more often those that are solved about half the time.

A group whose episodes are all right, or all wrong, carries no learning signal. The probability of such a group is lowest at a pass rate p
of 1/2. So a task is drawn in proportion to its learnability, 4p(1 − p) (Foster & Foerster 2025, arXiv 2502.12272), plus a floor: the policy
changes, so hopeless tasks must be tried again. An untried task counts as p = 1/2.
"""

import heapq
import random
import sys
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from lzero.config import RolloutConfig
from lzero.errors import ConfigError, StoreError
from lzero.protocols import TaskSource
from lzero.seeds import derive_seed
from lzero.types import Json

FLOOR = 0.05
"""Weight of a task that is always, or never, solved. A task that is solved half the time weighs 1 + FLOOR."""
FADE = 0.5
"""Factor on the weight of a task's earlier episodes when new ones arrive, because the policy has changed."""
TRIES = 64
"""The most tasks that are looked at for each one to draw, before all are."""
PRIOR = 0.5
"""Passes and misses that every task starts with (Jeffreys' prior)."""


def check_curriculum(config: RolloutConfig, source: TaskSource) -> None:
    """Raise ConfigError for tasks that never repeat: their pass rate says nothing about the next ones."""
    if config.curriculum == "pass_rate" and len(source) == sys.maxsize:
        raise ConfigError(
            'rollout.curriculum = "pass_rate" needs tasks that repeat, but tasks.train makes new ones without end: '
            'name a file of tasks, or use "none"'
        )


class PassRates:
    """Recent pass rates of `num_tasks` tasks, restored from `state`. Raises StoreError for a state of more tasks."""

    def __init__(self, num_tasks: int, *, state: Mapping[str, tuple[float, float]] = MappingProxyType({})) -> None:
        self._num_tasks = num_tasks
        self._seen = {int(index): counts for index, counts in state.items()}
        if any(index >= num_tasks for index in self._seen):
            raise StoreError(
                f"the checkpoint has a pass rate of task {max(self._seen)}, but tasks.train has only {num_tasks} tasks now"
            )

    def rate(self, index: int) -> float:
        """Return the share of a task's episodes that were right, with most weight on the last ones: in the open interval (0, 1)."""
        episodes, passes = self._seen.get(index, (0.0, 0.0))
        return (passes + PRIOR) / (episodes + 2 * PRIOR)

    def weight(self, index: int) -> float:
        rate = self.rate(index)
        return 4 * rate * (1 - rate) + FLOOR

    def draw(self, num_tasks: int, *, seed: int, without: Collection[int] = ()) -> list[int]:
        """Return `num_tasks` different tasks, drawn by weight one after another. Avoids tasks in `without` as long as others remain.

        If all tasks are used up, they may be drawn again.
        """
        generator = random.Random(seed)
        drawn = self._drawn_by_rejection(num_tasks, generator, without)
        while len(drawn) < num_tasks:
            # The largest keys are distributed as such draws (Efraimidis & Spirakis 2006).
            keys = {index: generator.random() ** (1 / self.weight(index)) for index in range(self._num_tasks)}
            fresh = keys.keys() - set(without) - set(drawn) or keys.keys()
            drawn += heapq.nlargest(num_tasks - len(drawn), fresh, key=keys.__getitem__)
        return drawn

    def _drawn_by_rejection(self, num_tasks: int, generator: random.Random, without: Collection[int]) -> list[int]:
        """Return up to `num_tasks` draws: look at tasks at random, and take each with a probability in proportion to its weight.

        Draws a few of many tasks without a look at all of them.
        """
        drawn: list[int] = []
        used = set(without)
        for _ in range(min(TRIES * num_tasks, self._num_tasks)):
            if len(drawn) == num_tasks:
                break
            index = generator.randrange(self._num_tasks)
            if index not in used and generator.random() * (1 + FLOOR) < self.weight(index):
                drawn.append(index)
                used.add(index)
        return drawn

    def saw(self, index: int, scores: Sequence[float]) -> None:
        """Record the core scores of a group."""
        if scores:
            episodes, passes = self._seen.get(index, (0.0, 0.0))
            self._seen[index] = episodes * FADE + len(scores), passes * FADE + sum(scores)

    def metrics(self, drawn: Sequence[int]) -> dict[str, float]:
        """Return `curriculum/tried`, the share of tasks that were tried, and `curriculum/pass_rate`, the expected one of the tasks `drawn`.

        Call it before the scores of these tasks are recorded.
        """
        return {
            "curriculum/tried": len(self._seen) / self._num_tasks,
            "curriculum/pass_rate": sum(map(self.rate, drawn)) / len(drawn),
        }

    def state(self) -> dict[str, Json]:
        """Return the state as JSON: task → [episodes, passes]."""
        return {str(index): [episodes, passes] for index, (episodes, passes) in sorted(self._seen.items())}


class TaskOrder:
    """Order in which training takes the tasks of `source`: each in turn, or as `rollout.curriculum` draws them.

    A place in this order is a position. The order has no end: a file's source starts each epoch in a new order. Raises ConfigError for a
    curriculum over tasks that never repeat, StoreError for pass rates of other tasks.
    """

    def __init__(
        self,
        source: TaskSource,
        *,
        config: RolloutConfig,
        seed: int,
        pass_rates: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    ) -> None:
        check_curriculum(config, source)
        self._seed = seed
        self._pass_rates = PassRates(len(source), state=pass_rates) if config.curriculum == "pass_rate" else None

    @property
    def state(self) -> dict[str, Json]:
        """The part of a stream's state that the order depends on."""
        return {} if self._pass_rates is None else {"pass_rates": self._pass_rates.state()}

    def indices(self, position: int, num_tasks: int, *, without: Collection[int] = ()) -> list[int]:
        """Return the tasks at `num_tasks` positions, the first of which is `position`; none of `without`, if possible."""
        if self._pass_rates is None:
            return list(range(position, position + num_tasks))
        return self._pass_rates.draw(num_tasks, seed=derive_seed(self._seed, "curriculum", position), without=without)

    def saw(self, index: int, scores: Sequence[float]) -> None:
        """Record the core scores of a task's group, for later draws."""
        if self._pass_rates is not None:
            self._pass_rates.saw(index, scores)

    def metrics(self, indices: Sequence[int]) -> dict[str, float]:
        """Return the curriculum's metrics of tasks about to be tried; {} without a curriculum."""
        return {} if self._pass_rates is None else self._pass_rates.metrics(indices)
