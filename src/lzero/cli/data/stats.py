"""`lzero data stats`: what is in a set.

lzero data stats merged
lzero data stats merged --plot merged.png
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from lzero.cli.arguments import print_json, say
from lzero.cli.data.arguments import Columns, Source, pairs

if TYPE_CHECKING:
    from lzero.data.manifest import Manifest
    from lzero.data.statistics import Statistics

VALUES = 8
"""Values of a text that are printed."""


def stats(
    source: Source,
    plot: Annotated[
        Path | None, Option("--plot", help="Draw the distributions into this file: .png, .svg or .pdf.")
    ] = None,
    column: Columns = None,
    json: Annotated[bool, Option("--json", help="Print the statistics as a line of JSON.")] = False,
) -> None:
    """Print how a set came about, how often each value occurs, and how lengths, hops and difficulties are distributed.

    Example: lzero data stats merged --plot merged.png
    """
    from lzero.data.stages.inputs import opened
    from lzero.data.statistics import statistics_of
    from lzero.extras import need

    need("data", what="lzero data")
    with opened([source], columns=pairs("--column", column)) as (rows,):
        found = statistics_of(rows.batches())
    if plot is not None:
        _draw(found, plot)
    if json:
        print_json(found)
        return
    _print(found, rows.made)


def _draw(found: "Statistics", file: Path) -> None:
    from lzero.extras import need
    from lzero.view.distributions import draw_distributions

    need("train", what="--plot")
    bars = {name: counts for name, counts in found.texts.items() if len(counts) > 1}
    histograms = {name: numbers.counts for name, numbers in found.numbers.items() if len(numbers.counts) > 1}
    draw_distributions(bars, histograms, file)


def _print(found: "Statistics", made: "Manifest | None") -> None:
    from rich.console import Console
    from rich.table import Table

    from lzero.data.statistics import QUANTILES

    console = Console(highlight=False, markup=False)
    say(console, f"{found.rows:,} rows")
    if made is not None:
        for depth, each in _history(made):
            say(console, f"{'  ' * depth}← {each.stage}: {each.rows_in:,} in, {each.rows_out:,} out")
    for name, counts in found.texts.items():
        shown = [f"{value or '(none)'} {count:,}" for value, count in list(counts.items())[:VALUES]]
        more = f", … ({len(counts) - VALUES:,} more values)" if len(counts) > VALUES else ""
        say(console, f"{name}: {', '.join(shown)}{more}")
    table = Table("number", "rows", "mean", *(f"{share:.0%}" for share in QUANTILES), box=None, pad_edge=False)
    for name, numbers in found.numbers.items():
        quantiles = (f"{value:,.4g}" for value in numbers.quantiles)
        table.add_row(name, f"{numbers.rows:,}", f"{numbers.mean:,.4g}", *quantiles)
    console.print(table)


def _history(made: "Manifest", depth: int = 1) -> "list[tuple[int, Manifest]]":
    """Return the stages that led to a set, the last one first."""
    earlier = (each.made for each in made.inputs if each.made is not None)
    return [(depth, made), *(found for each in earlier for found in _history(each, depth + 1))]
