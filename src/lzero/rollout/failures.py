"""What to do about what we broke: count it by kind, and stop when it is too much."""

from collections import Counter, deque
from typing import get_args

from lzero.errors import TrainError
from lzero.types import Episode, Failure

WINDOW = 64
"""How many of the last episodes the failure rate looks at."""

KINDS: tuple[str, ...] = get_args(Failure.__annotations__["kind"])
_SHOWN = 3


class CircuitBreaker:
    """Counts failures, and raises TrainError when their share of the last WINDOW episodes is certain to exceed `max_rate`.

    It need not wait for a full window: more than `max_rate * WINDOW` failures cannot be outweighed by what is still to come.
    """

    def __init__(self, *, max_rate: float) -> None:
        self._max_failures = max_rate * WINDOW
        self._last: deque[Failure | None] = deque(maxlen=WINDOW)
        self._counts: Counter[str] = Counter()

    def saw(self, episode: Episode) -> None:
        """Take note of an episode that ended, well or not; one that was cut off is counted, and is no failure. Raises TrainError."""
        if episode.failure is not None and episode.failure.kind == "straggler":
            self._counts["straggler"] += 1
            return
        self._last.append(episode.failure)
        if episode.failure is None:
            return
        self._counts[episode.failure.kind] += 1
        failures = [failure for failure in self._last if failure is not None]
        if len(failures) > self._max_failures:
            raise TrainError(f"{len(failures)} of the last {len(self._last)} episodes failed: {explain(failures)}")

    def take_counts(self) -> dict[str, int]:
        """Failures by kind since the last call; every kind is there."""
        counts, self._counts = self._counts, Counter()
        return {kind: counts[kind] for kind in KINDS}


def explain(failures: list[Failure]) -> str:
    """`repl 2, engine 1. Last: repl at step 0, running a cell: zygote died`."""
    kinds = Counter(failure.kind for failure in failures)
    counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    messages = dict.fromkeys(f"{failure.kind} at {failure.where}: {failure.what}" for failure in reversed(failures))
    return f"{counts}. Last: {'; '.join(list(messages)[:_SHOWN])}"
