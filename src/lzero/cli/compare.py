"""`lzero compare`: paired differences between the evaluations of runs.

lzero compare runs/base-eval runs/trained-eval
lzero compare runs/world runs/world --update 0 --update 12       one training run, before and after
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from lzero.cli.arguments import say, takes, versions_of
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from lzero.eval.compare import Comparison, Evaluated, SideBySide

FLIPS = 10
"""Tasks that a comparison lists, unless --flips asks for another number."""
QUESTION_CHARS = 300
"""The most characters of a question, of its gold answers and of an answer."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Options of `lzero compare`."""

    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Directories of runs, the baseline first.")]
    update: Annotated[
        list[int] | None,
        Option("--update", min=0, help="Policy version to compare, once for each run; default: the last evaluated."),
    ] = None
    sampled: Annotated[bool, Option("--sampled", help="Compare sampled evaluations, not greedy ones.")] = False
    flips: Annotated[int, Option("--flips", min=0, help="Number of tasks listed whose score differs.")] = FLIPS
    json: Annotated[bool, Option("--json", help="Print a line of JSON for each comparison, with all flips.")] = False


@takes(Compared)
def compare(wanted: Compared) -> None:
    """Compare evaluations task by task: paired differences with 95 % intervals, significance, and the tasks that flipped.

    Example: lzero compare runs/base-eval runs/trained-eval
    """
    from lzero.eval.compare import compare as compared
    from lzero.eval.compare import labels, read_evaluation, side_by_side

    if len(wanted.runs) < 2:
        raise ConfigError("name at least two runs: lzero compare BASELINE RUN")
    versions = versions_of(wanted.runs, wanted.update)
    first, *others = (
        read_evaluation(run, phase="sampled" if wanted.sampled else "eval", update=update)
        for run, update in zip(wanted.runs, versions, strict=True)
    )
    comparisons = [compared(first, other) for other in others]
    if wanted.json:
        import msgspec

        sys.stdout.buffer.writelines(msgspec.json.encode(each) + b"\n" for each in comparisons)
        return
    from rich.console import Console

    console = Console()
    for other, comparison in zip(others, comparisons, strict=True):
        _print(console, first, other, comparison)
    _print_flips(console, side_by_side([first, *others]), labels([first, *others]), num_flips=wanted.flips)


def _print(console: "Console", first: "Evaluated", other: "Evaluated", found: "Comparison") -> None:
    from lzero.text import counted

    for name, one, score in (("baseline", first, found.before), ("run", other, found.after)):
        failed = f", {counted(one.num_failed, 'episode')} failed" if one.num_failed else ""
        say(console, f"{name:<9} {score:.3f}  {one.run}, policy version {one.update}{failed}")
    unpaired = f"; {counted(found.unpaired, 'task')} that only one has scored left out" if found.unpaired else ""
    say(
        console,
        f"difference {found.difference:+.3f} (95 % from {found.low:+.3f} to {found.high:+.3f}) over "
        f"{counted(found.num_tasks, 'task')}{unpaired}; sign test p = {found.p_value:.2g}",
    )
    gains = sum(flip.difference > 0 for flip in found.flips)
    say(console, f"{counted(len(found.flips) - gains, 'task')} lost, {gains} gained")


def _print_flips(console: "Console", flips: "Sequence[SideBySide]", runs: "Sequence[str]", *, num_flips: int) -> None:
    """Print the tasks that the runs score differently: question, gold answers, and score and answer of each run."""
    from lzero.text import one_line

    width = max(map(len, runs))
    for flip in flips[:num_flips]:
        say(console, f"\n{flip.task}  {one_line(flip.question)[:QUESTION_CHARS]}")
        say(console, f"  {'gold':<{width}}        {' | '.join(map(one_line, flip.gold))[:QUESTION_CHARS]}")
        for run, own in zip(runs, flip.scores, strict=True):
            score, answer = ("–", "not scored") if own is None else (f"{own.score:.3g}", repr(own.answer))
            say(console, f"  {run:<{width}}  {score:<4}  {answer[:QUESTION_CHARS]}")
    if len(flips) > num_flips:
        say(console, f"… and {len(flips) - num_flips} more (--flips N)")
