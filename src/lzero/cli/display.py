"""Show training while it runs: a live table in a terminal, one plain line per update elsewhere."""

import time
from collections import deque

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lzero.cli.arguments import say
from lzero.rollout.failures import kinds_in, listed
from lzero.types import Update

SHOWN_UPDATES = 12
BARS = "▁▂▃▄▅▆▇█"
MEASURED = {
    "score": ("rollout/score", ".3f"),
    "reward": ("reward/total", ".3f"),
    "answer": ("reward/qa", ".3f"),
    "format": ("reward/format", ".3f"),
    "execution": ("reward/execution", ".3f"),
    "episodes": ("rollout/episodes", ".0f"),
    "steps": ("rollout/steps_per_episode", ".2f"),
    "tokens/s": ("rollout/tokens_per_s", ",.0f"),
}
"""Column → its metric, and the format of that."""
COLUMNS = ("update", *MEASURED, "failures", "seconds", "left")


def minutes(seconds: float) -> str:
    """Return minutes and seconds: `minutes(75)` is "1:15"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def sparkline(values: list[float]) -> str:
    """Return a bar of one block per value, 0 to 1."""
    return "".join(BARS[min(len(BARS) - 1, max(0, int(value * len(BARS))))] for value in values)


def cells(update: Update, *, num_updates: int, left_s: float) -> tuple[str, ...]:
    """Return one row of the table, in the order of COLUMNS."""
    metrics = update.metrics

    def number(name: str, form: str) -> str:
        return format(metrics[name], form) if name in metrics else "–"

    return (
        f"{update.policy_version}/{num_updates}",
        *(number(name, form) for name, form in MEASURED.values()),
        listed(kinds_in([metrics])) or "0",
        number("time/update_s", ".1f"),
        minutes(left_s),
    )


class TrainingDisplay:
    """A context manager. `updated` shows an update, `say` the current activity, `note` a message that stays."""

    def __init__(self, console: Console, *, num_updates: int) -> None:
        self._console = console
        self._num_updates = num_updates
        self._updates: deque[Update] = deque(maxlen=num_updates)
        self._doing = "setting up"
        self._durations: list[float] = []
        self._last = time.monotonic()
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=4) if console.is_terminal else None
        )

    def __enter__(self) -> "TrainingDisplay":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the terminal."""
        if self._live is not None:
            self._live.stop()

    def say(self, sentence: str) -> None:
        """Show the current activity."""
        self._doing = sentence
        self._last = time.monotonic()
        if self._live is None:
            say(self._console, sentence)

    def note(self, sentence: str) -> None:
        """Print a note, which stays above the table."""
        say(self._console, f"note: {sentence}")

    def updated(self, update: Update) -> None:
        now = time.monotonic()
        self._durations.append(now - self._last)
        self._last = now
        if self._live is None and not self._updates:
            say(self._console, self._line(COLUMNS))
        self._updates.append(update)
        self._doing = f"update {update.policy_version + 1} of {self._num_updates}: episodes are running"
        if self._live is None:
            row = cells(update, num_updates=self._num_updates, left_s=self._left_s())
            say(self._console, self._line(row))

    def _left_s(self) -> float:
        recent = sorted(self._durations[-5:])
        done = self._updates[-1].policy_version if self._updates else 0
        return recent[len(recent) // 2] * (self._num_updates - done) if recent else 0.0

    @staticmethod
    def _line(row: tuple[str, ...]) -> str:
        return "  ".join(f"{cell:>9}" for cell in row)

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in COLUMNS[:-1]:
            table.add_column(column, justify="right")
        left_s = self._left_s()
        for update in list(self._updates)[-SHOWN_UPDATES:]:
            table.add_row(*cells(update, num_updates=self._num_updates, left_s=left_s)[:-1])
        scores = [update.metrics.get("rollout/score", 0.0) for update in self._updates]
        left = f" · {minutes(left_s)} left" if scores else ""
        return Group(table, Text(sparkline(scores), style="green"), Text(f"… {self._doing}{left}", style="dim"))
