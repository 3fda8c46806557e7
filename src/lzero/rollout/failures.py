"""Count failures by kind and by task, and stop a run that has too many."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import get_args

import msgspec
from msgspec import Struct

from lzero.errors import TrainError
from lzero.types import Episode, Failure, Json

WINDOW = 64
"""Number of last episodes that the failure rate covers."""
WORST = 5
"""The most failing tasks that are named."""

KINDS: tuple[str, ...] = get_args(Failure.__annotations__["kind"])
METRIC = "failures/"
"""Prefix of the metric that counts the failures of a kind."""
_SHOWN = 3


class TaskFailures(Struct, frozen=True, kw_only=True):
    """Failed attempts at one task, those with a successful retry included.

    TaskFailures(task="qa-7", attempts=8, failed=6, kinds={"tool": 6})
    """

    task: str
    attempts: int
    failed: int
    kinds: dict[str, int]

    def __str__(self) -> str:
        return f"{self.task} ({self.failed} of {self.attempts}: {', '.join(self.kinds)})"

    @property
    def often(self) -> bool:
        """Whether more than one attempt, and at least half of them, failed."""
        return self.failed > 1 and 2 * self.failed >= self.attempts


class Failing(Struct, frozen=True, kw_only=True):
    """Failed attempts at all tasks of an update, an evaluation or a run."""

    attempts: int = 0
    failed_attempts: int = 0
    tasks: int = 0
    """Number of tasks that were attempted."""
    failing_tasks: int = 0
    """Number of these with failed attempts."""
    worst: tuple[TaskFailures, ...] = ()
    """At most WORST tasks, those with the most failures first."""
    kinds: dict[str, int] = {}
    """Failed attempts by kind; stragglers too, which are not among the attempts."""

    def metrics(self) -> dict[str, float]:
        """Return failures by kind and, if anything was attempted, the shares of attempts that failed and of tasks with failures."""
        metrics = {f"{METRIC}{kind}": float(count) for kind, count in self.kinds.items()}
        if self.attempts:
            metrics["rollout/failed_attempts"] = self.failed_attempts / self.attempts
            metrics["rollout/failing_tasks"] = self.failing_tasks / self.tasks
        return metrics

    def line(self) -> dict[str, Json]:
        """Return the worst tasks for a line of metrics.jsonl; nothing if none failed."""
        return {"failing_tasks": msgspec.to_builtins(self.worst)} if self.worst else {}


class CircuitBreaker:
    """Counts failures, and raises TrainError as soon as their share of the last WINDOW episodes is certain to exceed `max_rate`.

    It does not wait for a full window: more than `max_rate * WINDOW` failures exceed the rate whatever follows.
    """

    def __init__(self, *, max_rate: float) -> None:
        self._max_failures = max_rate * WINDOW
        self._last: deque[Failure | None] = deque(maxlen=WINDOW)
        self._stragglers = 0
        self._attempts: Counter[str] = Counter()
        """Attempts by task."""
        self._failures: dict[str, Counter[str]] = {}
        """Failed attempts by task and kind."""

    def saw(self, episode: Episode, *, counts: bool = True) -> None:
        """Record the end of an episode. A straggler is counted, but is not a failure. Raises TrainError.

        `counts`: whether a failure is one of the episodes that the failure limit covers; it is counted by kind in any case.
        """
        if episode.failure is not None and episode.failure.kind == "straggler":
            self._stragglers += 1
            return
        if counts:
            self._last.append(episode.failure)
        self._attempts[episode.task_id] += 1
        if episode.failure is None:
            return
        self._failures.setdefault(episode.task_id, Counter())[episode.failure.kind] += 1
        failures = [failure for failure in self._last if failure is not None]
        if len(failures) > self._max_failures:
            raise TrainError(f"{len(failures)} of the last {len(self._last)} episodes failed: {explain(failures)}")

    def take(self) -> Failing:
        """Return the failures since the last call; `kinds` includes every kind."""
        found = by_task([self.take_task(task) for task in list(self._attempts)])
        stragglers, self._stragglers = self._stragglers, 0
        return msgspec.structs.replace(found, kinds=found.kinds | {"straggler": stragglers})

    def take_task(self, task: str) -> TaskFailures:
        """Return the failures of one task since the last call; `take` does not return them again."""
        return _of_task(task, self._attempts.pop(task, 0), self._failures.pop(task, Counter()))


def by_task(tasks: Iterable[TaskFailures]) -> Failing:
    """Add up the failures of tasks; `kinds` includes every kind. A task may come several times, as in the lines of several updates."""
    attempts: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    for each in tasks:
        attempts[each.task] += each.attempts
        kinds.setdefault(each.task, Counter()).update(each.kinds)
    failing = [_of_task(task, attempts[task], found) for task, found in kinds.items() if found.total()]
    total = sum(kinds.values(), Counter())
    failing.sort(key=lambda each: (-each.failed, each.task))
    return Failing(
        attempts=attempts.total(),
        failed_attempts=sum(each.failed for each in failing),
        tasks=len(attempts),
        failing_tasks=len(failing),
        worst=tuple(failing[:WORST]),
        kinds={kind: total[kind] for kind in KINDS},
    )


def kinds_in(lines: Iterable[Mapping[str, Json]]) -> dict[str, int]:
    """Return the failures by kind over lines of metrics, those with a successful retry included."""
    counts: Counter[str] = Counter()
    for line in lines:
        for name, count in line.items():
            if name.startswith(METRIC) and isinstance(count, float):
                counts[name.removeprefix(METRIC)] += int(count)
    return dict(counts)


def listed(kinds: Mapping[str, int]) -> str:
    """Return failures by kind as in "engine 1, repl 2"; "" for none."""
    return ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()) if count)


def explain(failures: list[Failure]) -> str:
    """Return failures in words: "repl 2, engine 1. Last: repl at step 0, running a cell: zygote died"."""
    kinds = Counter(failure.kind for failure in failures)
    counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    messages = dict.fromkeys(f"{failure.kind} at {failure.where}: {failure.what}" for failure in reversed(failures))
    return f"{counts}. Last: {'; '.join(list(messages)[:_SHOWN])}"


def _of_task(task: str, attempts: int, kinds: Counter[str]) -> TaskFailures:
    return TaskFailures(task=task, attempts=attempts, failed=kinds.total(), kinds=dict(kinds.most_common()))
