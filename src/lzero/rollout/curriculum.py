"""Which task comes next: each in turn, or those that are solved about half the time more often.

A group whose episodes are all right, or all wrong, says nothing about what to do better, and the chance of that is least where the pass
rate p is 1/2. So a task is drawn in proportion to 4p(1 − p), its learnability (Foster & Foerster 2025, arXiv 2502.12272), and to a
floor, as the policy changes: what was hopeless must be tried again. What was never tried counts as p = 1/2.
"""

import heapq
import random
import sys
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from lzero.config import RolloutConfig
from lzero.errors import ConfigError, StoreError
from lzero.protocols import TaskSource
from lzero.types import Json

FLOOR = 0.05
"""Weight of a task that is always, or never, solved, where one that is solved half the time weighs 1 + FLOOR."""
FADE = 0.5
"""What earlier episodes of a task count when new ones are in: the policy is no longer the same."""
PRIOR = 0.5
"""Passes and misses that every task is given at first (Jeffreys' prior)."""


def check_curriculum(config: RolloutConfig, source: TaskSource) -> None:
    """Raises ConfigError for tasks that never come again: a pass rate of theirs says nothing about the next ones."""
    if config.curriculum == "pass_rate" and len(source) == sys.maxsize:
        raise ConfigError(
            'rollout.curriculum = "pass_rate" needs tasks that repeat, but tasks.train makes new ones without end: '
            'name a file of tasks, or use "none"'
        )


class PassRates:
    """How often each of `num_tasks` tasks was solved of late; goes on from a `state`. Raises StoreError for one of more tasks."""

    def __init__(self, num_tasks: int, *, state: Mapping[str, tuple[float, float]] = MappingProxyType({})) -> None:
        self._num_tasks = num_tasks
        self._seen = {int(index): counts for index, counts in state.items()}
        if any(index >= num_tasks for index in self._seen):
            raise StoreError(
                f"the checkpoint has a pass rate of task {max(self._seen)}, but tasks.train has only {num_tasks} tasks now"
            )

    def rate(self, index: int) -> float:
        """The share of a task's episodes that were right, the last ones counting most: between 0 and 1, both excluded."""
        episodes, passes = self._seen.get(index, (0.0, 0.0))
        return (passes + PRIOR) / (episodes + 2 * PRIOR)

    def weight(self, index: int) -> float:
        rate = self.rate(index)
        return 4 * rate * (1 - rate) + FLOOR

    def draw(self, num_tasks: int, *, seed: int, without: Collection[int] = ()) -> list[int]:
        """So many different tasks, drawn by weight (Efraimidis & Spirakis 2006); `without` those while there are others. When all are
        used up, they come again."""
        generator = random.Random(seed)
        drawn: list[int] = []
        while len(drawn) < num_tasks:
            keys = {index: generator.random() ** (1 / self.weight(index)) for index in range(self._num_tasks)}
            fresh = keys.keys() - set(without) - set(drawn) or keys.keys()
            drawn += heapq.nlargest(num_tasks - len(drawn), fresh, key=keys.__getitem__)
        return drawn

    def saw(self, index: int, scores: Sequence[float]) -> None:
        """Take note of the core scores of a group."""
        if scores:
            episodes, passes = self._seen.get(index, (0.0, 0.0))
            self._seen[index] = episodes * FADE + len(scores), passes * FADE + sum(scores)

    def metrics(self, drawn: Sequence[int]) -> dict[str, float]:
        """`curriculum/tried`, the share of tasks that were tried at least once, and `curriculum/pass_rate`, what was expected of
        those `drawn`; ask before the scores are seen."""
        return {
            "curriculum/tried": len(self._seen) / self._num_tasks,
            "curriculum/pass_rate": sum(map(self.rate, drawn)) / len(drawn),
        }

    def state(self) -> dict[str, Json]:
        """JSON: task → [episodes, passes]."""
        return {str(index): [episodes, passes] for index, (episodes, passes) in sorted(self._seen.items())}
