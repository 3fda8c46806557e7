"""Show an evaluation while it runs: a bar with the running score in a terminal, a line now and then elsewhere."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lzero.cli.arguments import say
from lzero.eval.evaluate import PHASES
from lzero.store import Phase, Record
from lzero.text import counted

EVERY_S = 20.0
"""Least seconds between two lines outside a terminal."""
DRAWN_S = 0.25
"""Least seconds between two changes of the bar."""
Z = 1.96
"""Standard errors of a 95 % interval."""


@dataclass
class Running:
    """Score of the questions that are finished so far."""

    num_tasks: int
    num_done: int = 0
    num_episodes: int = 0
    num_failed: int = 0
    _total: float = 0.0
    _num_scored: int = 0
    _means: float = 0.0
    _squares: float = 0.0

    def add(self, record: Record) -> None:
        scores = record.scores
        self.num_done += 1
        self.num_failed += len(record.episodes) - len(scores)
        if scores:
            mean = sum(scores) / len(scores)
            self.num_episodes += len(scores)
            self._total += sum(scores)
            self._num_scored += 1
            self._means += mean
            self._squares += mean * mean

    @property
    def score(self) -> float:
        """Mean score of the episodes that did not fail; nan for none."""
        return self._total / self.num_episodes if self.num_episodes else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the score over tasks, by the normal approximation, which costs nothing; the final one is a bootstrap."""
        if not self._num_scored:
            return math.nan, math.nan
        mean = self._means / self._num_scored
        error = Z * math.sqrt(max(0.0, self._squares / self._num_scored - mean * mean) / self._num_scored)
        return max(0.0, self.score - error), min(1.0, self.score + error)

    def words(self, measure: str) -> str:
        """Return `EM 0.412 (0.36 to 0.47), 2 failed`."""
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        if not self.num_episodes:
            return f"{measure} –{failed}"
        low, high = self.interval
        return f"{measure} {self.score:.3f} ({low:.2f} to {high:.2f}){failed}"


class EvaluationDisplay:
    """A context manager. `saw` shows that a question is finished."""

    def __init__(self, console: Console, phases: Sequence[Phase], *, num_tasks: int, measure: str) -> None:
        self._console, self._measure = console, measure
        self.running = {phase: Running(num_tasks) for phase in phases}
        self._said = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[score]}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bars: dict[Phase, TaskID] = {}

    def __enter__(self) -> "EvaluationDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the terminal."""
        self._progress.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence, which stays above the bar."""
        say(self._console, sentence)

    def saw(self, phase: Phase, record: Record) -> None:
        """Count a finished question."""
        running = self.running[phase]
        running.add(record)
        now = time.monotonic()
        if (
            now - self._said < (DRAWN_S if self._console.is_terminal else EVERY_S)
            and running.num_done < running.num_tasks
        ):
            return
        words = running.words(self._measure)
        if self._console.is_terminal:
            self._said = now
            if phase not in self._bars:
                self._bars[phase] = self._progress.add_task(PHASES[phase], total=running.num_tasks, score=words)
            self._progress.update(self._bars[phase], completed=running.num_done, score=words)
        elif now - self._said >= EVERY_S:
            self._said = now
            self.say(f"{PHASES[phase]}: {running.num_done} of {counted(running.num_tasks, 'question')}, {words}")
