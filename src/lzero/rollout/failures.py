"""What to do about what we broke: count it by kind and by task, and stop when it is too much."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import get_args

import msgspec
from msgspec import Struct

from lzero.errors import TrainError
from lzero.types import Episode, Failure, Json

WINDOW = 64
"""How many of the last episodes the failure rate looks at."""
WORST = 5
"""Tasks that are named, of those with failures."""

KINDS: tuple[str, ...] = get_args(Failure.__annotations__["kind"])
_SHOWN = 3


class TaskFailures(Struct, frozen=True, kw_only=True):
    """`TaskFailures(task="qa-7", attempts=8, failed=6, kinds={"tool": 6})`; an attempt whose retry succeeded is counted, too."""

    task: str
    attempts: int
    failed: int
    kinds: dict[str, int]

    def __str__(self) -> str:
        return f"{self.task} ({self.failed} of {self.attempts}: {', '.join(self.kinds)})"

    @property
    def often(self) -> bool:
        """Whether more than one attempt failed, and half of them at least."""
        return self.failed > 1 and 2 * self.failed >= self.attempts


class Failing(Struct, frozen=True, kw_only=True):
    """Failures of some time by task."""

    attempts: int = 0
    failed: int = 0
    tasks: int = 0
    """That were attempted."""
    failing: int = 0
    """Of these tasks, that had failures."""
    worst: tuple[TaskFailures, ...] = ()
    """At most WORST tasks, those with most failures first."""

    def metrics(self) -> dict[str, float]:
        """Shares of attempts and of tasks; nothing where nothing was attempted."""
        if not self.attempts:
            return {}
        return {
            "rollout/failed_attempts": self.failed / self.attempts,
            "rollout/failing_tasks": self.failing / self.tasks,
        }

    def line(self) -> dict[str, Json]:
        """The worst tasks for a line of metrics.jsonl; nothing where none failed."""
        return {"failing_tasks": msgspec.to_builtins(self.worst)} if self.worst else {}


class CircuitBreaker:
    """Counts failures, and raises TrainError when their share of the last WINDOW episodes is certain to exceed `max_rate`.

    It need not wait for a full window: more than `max_rate * WINDOW` failures cannot be outweighed by what is still to come.
    """

    def __init__(self, *, max_rate: float) -> None:
        self._max_failures = max_rate * WINDOW
        self._last: deque[Failure | None] = deque(maxlen=WINDOW)
        self._counts: Counter[str] = Counter()
        self._tasks: dict[str, Counter[str]] = {}
        """For each task, attempts by the kind of their failure, "" for those without one."""

    def saw(self, episode: Episode) -> None:
        """Take note of an episode that ended, well or not; one that was cut off is counted, and is no failure. Raises TrainError."""
        if episode.failure is not None and episode.failure.kind == "straggler":
            self._counts["straggler"] += 1
            return
        self._last.append(episode.failure)
        kind = episode.failure.kind if episode.failure is not None else ""
        self._tasks.setdefault(episode.task_id, Counter())[kind] += 1
        if episode.failure is None:
            return
        self._counts[kind] += 1
        failures = [failure for failure in self._last if failure is not None]
        if len(failures) > self._max_failures:
            raise TrainError(f"{len(failures)} of the last {len(self._last)} episodes failed: {explain(failures)}")

    def take_counts(self) -> dict[str, int]:
        """Failures by kind since the last call; every kind is there."""
        counts, self._counts = self._counts, Counter()
        return {kind: counts[kind] for kind in KINDS}

    def take_failing(self) -> Failing:
        """Failures by task since the last call."""
        tasks, self._tasks = self._tasks, {}
        return by_task(
            TaskFailures(task=task, attempts=kinds.total(), failed=kinds.total() - kinds[""], kinds=_without(kinds, ""))
            for task, kinds in tasks.items()
        )


def by_task(tasks: Iterable[TaskFailures]) -> Failing:
    """What each task came to, together. Several lines of one task, as of several updates, are added up."""
    attempts: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    for each in tasks:
        attempts[each.task] += each.attempts
        kinds.setdefault(each.task, Counter()).update(each.kinds)
    failing = [
        TaskFailures(task=task, attempts=attempts[task], failed=found.total(), kinds=dict(found.most_common()))
        for task, found in kinds.items()
        if found.total()
    ]
    failing.sort(key=lambda each: (-each.failed, each.task))
    return Failing(
        attempts=attempts.total(),
        failed=sum(each.failed for each in failing),
        tasks=len(attempts),
        failing=len(failing),
        worst=tuple(failing[:WORST]),
    )


def explain(failures: list[Failure]) -> str:
    """`repl 2, engine 1. Last: repl at step 0, running a cell: zygote died`."""
    kinds = Counter(failure.kind for failure in failures)
    counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    messages = dict.fromkeys(f"{failure.kind} at {failure.where}: {failure.what}" for failure in reversed(failures))
    return f"{counts}. Last: {'; '.join(list(messages)[:_SHOWN])}"


def _without(counts: Mapping[str, int], name: str) -> dict[str, int]:
    return {kind: count for kind, count in counts.items() if kind != name}
