"""`lzero data filter`: keep the rows whose values are in bounds.

lzero data filter rated --min objectivity=1 --min stability=1 --max question_chars=400 --out good
lzero data filter train --run runs/base-eval --min pass_rate=0.1 --max pass_rate=0.9 --out learnable
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from lzero.cli.arguments import takes
from lzero.cli.data.arguments import AsJson, Columns, Out, Source, pairs, write_set
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from lzero.data.stages.filter import Bound


@dataclass(frozen=True, kw_only=True)
class Filtering:
    """Options of `lzero data filter`."""

    source: Source
    out: Out
    least: Annotated[
        list[str] | None,
        Option("--min", metavar="NAME=NUMBER", help="Drop rows whose value is less: question_chars, hops, a rating …"),
    ] = None
    most: Annotated[list[str] | None, Option("--max", metavar="NAME=NUMBER", help="Drop rows whose value is more.")] = (
        None
    )
    only: Annotated[
        list[str] | None,
        Option("--only", metavar="NAME=VALUE,…", help="Drop rows with another value: split, source, ability …"),
    ] = None
    without: Annotated[
        list[str] | None, Option("--without", metavar="NAME=VALUE,…", help="Drop rows with one of these values.")
    ] = None
    keep_missing: Annotated[bool, Option("--keep-missing", help="Keep rows that lack a value that is bounded.")] = False
    run: Annotated[
        list[Path] | None, Option("--run", help="An evaluation's run, for bounds on pass_rate; several are averaged.")
    ] = None
    sampled: Annotated[bool, Option("--sampled", help="Use the run's sampled evaluation, not its greedy one.")] = False
    column: Columns = None
    json: AsJson = False


@takes(Filtering)
def filter_rows(wanted: Filtering) -> None:
    """Keep the rows whose values are in all bounds. Each other row is in dropped.parquet, with the first bound that it breaks.

    Example: lzero data filter train --min hops=2 --only split=train --out hard
    """
    from lzero.data.stages.filter import PASS_RATE, Filter

    bounds = _bounds(wanted)
    if not bounds:
        raise ConfigError("give at least one bound: --min, --max, --only or --without")
    is_rated = any(bound.name == PASS_RATE for bound in bounds)
    if bool(wanted.run) > is_rated:
        raise ConfigError("--run has an effect with a bound on pass_rate only: --min pass_rate=0.1")
    if wanted.sampled and not wanted.run:
        raise ConfigError("--sampled has an effect with --run only")
    rates = _pass_rates(wanted.run, sampled=wanted.sampled) if wanted.run else None
    stage = Filter(bounds, keep_missing=wanted.keep_missing, pass_rates=rates)
    write_set(stage, [wanted.source], wanted.out, column=wanted.column, json=wanted.json)


def _bounds(wanted: Filtering) -> "list[Bound]":
    from lzero.data.stages.filter import Among, AtLeast, AtMost

    bounds: list[Bound] = [
        AtLeast(name, _number("--min", name, value)) for name, value in pairs("--min", wanted.least).items()
    ]
    bounds += [AtMost(name, _number("--max", name, value)) for name, value in pairs("--max", wanted.most).items()]
    bounds += [Among(name, tuple(value.split(","))) for name, value in pairs("--only", wanted.only).items()]
    without = pairs("--without", wanted.without).items()
    bounds += [Among(name, tuple(value.split(",")), wanted=False) for name, value in without]
    return bounds


def _number(option: str, name: str, value: str) -> float:
    import math

    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ConfigError(f"{option} {name}={value!r}: give a number")
    return number


def _pass_rates(runs: Sequence[Path], *, sampled: bool) -> dict[str, float]:
    """Return task → its mean score in the last evaluations of the runs. Raises StoreError, ConfigError."""
    from lzero.eval.compare import read_evaluation

    found: dict[str, list[float]] = {}
    for run in runs:
        for task, score in read_evaluation(run, phase="sampled" if sampled else "eval").scores.items():
            found.setdefault(task, []).append(score.score)
    return {task: sum(scores) / len(scores) for task, scores in found.items()}
