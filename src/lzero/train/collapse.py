"""Detect a run that collapses: a pure function of its metrics, so it works for a finished run, too.

It compares a mean over the last WINDOW updates with earlier ones, so one odd batch causes no warning. It warns when a sign appears, and
again only after the sign was gone.

    sign                             compared with                              metric
    entropy near zero                the first WINDOW updates                   train/entropy
    replies much longer or shorter   the median of up to REMEMBERED before      rollout/tokens_per_step
    no variance of rewards           1, and the first WINDOW updates            groups/uniform, reward/std
    format reward falls              the best WINDOW updates so far             reward/format
    failures rise                    the first WINDOW updates                   rollout/failed_attempts
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lzero.types import Json

WINDOW = 3
REMEMBERED = 20
ENTROPY_LEFT = 0.1
"""Share of the initial entropy below which the policy hardly explores."""
LONGER, SHORTER = 2.0, 0.5
"""Factors on the earlier length."""
UNIFORM = 0.95
"""Share of groups with equal scores."""
SPREAD_LEFT = 0.1
"""Share of the initial standard deviation of rewards."""
FORMAT_LEFT = 0.8
"""Share of the best format reward."""
FAILING, MORE_FAILING = 0.05, 2.0
"""Share of attempts that fail, and factor on the initial share, above which a policy may have learned to fail."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A sign of a collapse: `Sign(metric="train/entropy", update=40, values=(0.011, 0.008, 0.007), why="…")`; `str` gives it as a
    sentence."""

    metric: str
    update: int
    values: tuple[float, ...]
    """Values of the last updates, including this one."""
    why: str

    def __str__(self) -> str:
        values = ", ".join(f"{value:.3g}" for value in self.values)
        return f"update {self.update}: {self.metric} is {values} in the last {len(self.values)} updates: {self.why}"


def collapse_warnings(history: Sequence[Mapping[str, Json]]) -> list[Sign]:
    """Return the signs that are new in the last of the lines of metrics.jsonl, in order. Lines of evaluations are ignored."""
    lines = [line for line in history if line.get("phase") == "train"]
    known = {found.metric for found in _signs(lines[:-1])}
    return [found for found in _signs(lines) if found.metric not in known]


def _signs(lines: Sequence[Mapping[str, Json]]) -> list[Sign]:
    found = []
    for metric, check in CHECKS.items():
        measured = [value for line in lines if (value := _number(line, metric)) is not None]
        if len(measured) < 2 * WINDOW or _number(lines[-1], metric) is None:
            continue
        why, update = check(measured), _number(lines[-1], "update")
        if why:
            assert update is not None
            found.append(Sign(metric=metric, update=int(update), values=tuple(measured[-WINDOW:]), why=why))
    return found


def _number(line: Mapping[str, Json], name: str) -> float | None:
    """Return the metric; None if it was not measured, or is not finite (a skipped update)."""
    value = line.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _fell(share: float, why: str) -> Callable[[Sequence[float]], str]:
    """Return a function that reports a metric below this share of its first value."""

    def check(values: Sequence[float]) -> str:
        first, last = _first(values), _last(values)
        return "" if last >= share * first else f"less than {share:.0%} of its first value {first:.3g}: {why}"

    return check


def _length(values: Sequence[float]) -> str:
    before, last = statistics.median(values[-WINDOW - REMEMBERED : -WINDOW]), _last(values)
    if last > LONGER * before:
        grow = "replies grow; read some (lzero show) before they fill the budget"
        return f"more than {LONGER:g} times the earlier median {before:.3g}: {grow}"
    if last < SHORTER * before:
        return f"less than {SHORTER:.0%} of the earlier median {before:.3g}: replies shrink; read some (lzero show)"
    return ""


def _uniform(values: Sequence[float]) -> str:
    if _last(values) < UNIFORM:
        return ""
    return (
        "nearly every group is all right or all wrong, so advantages carry no signal; if the score is high the tasks are learned, if it "
        "is low they are too hard, or the policy has collapsed"
    )


def _format(values: Sequence[float]) -> str:
    best = max(statistics.fmean(values[end - WINDOW : end]) for end in range(WINDOW, len(values) + 1))
    if _last(values) >= FORMAT_LEFT * best:
        return ""
    return (
        f"less than {FORMAT_LEFT:.0%} of its best value {best:.3g}: replies lose the format that the parser reads; an earlier checkpoint "
        "still has it"
    )


def _failing(values: Sequence[float]) -> str:
    first, last = _first(values), _last(values)
    if last < FAILING or last < MORE_FAILING * first:
        return ""
    return (
        f"{last:.0%} of all attempts fail, and {first:.0%} did at first: what fails is not scored, so the policy may have learned to fail; "
        "read some (lzero show RUN --failed)"
    )


def _first(values: Sequence[float]) -> float:
    return statistics.fmean(values[:WINDOW])


def _last(values: Sequence[float]) -> float:
    return statistics.fmean(values[-WINDOW:])


CHECKS: Mapping[str, Callable[[Sequence[float]], str]] = {
    "train/entropy": _fell(
        ENTROPY_LEFT,
        "the policy hardly explores; a lower train.lr, algo.entropy_coef or a larger clip_high in algo.loss_options preserve exploration",
    ),
    "rollout/tokens_per_step": _length,
    "groups/uniform": _uniform,
    "reward/std": _fell(SPREAD_LEFT, "all episodes earn the same, so nothing is left to learn"),
    "reward/format": _format,
    "rollout/failed_attempts": _failing,
}
"""Metric → a function of its values so far that returns what is wrong with the last ones, or ""."""
