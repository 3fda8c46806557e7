"""`lzero data leaks`: questions of a train set that benchmarks ask.

lzero data leaks train --against dev.jsonl --against raw/gsm8k-test
lzero data leaks train --against dev.jsonl --drop --out clean
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from lzero.cli.arguments import print_json, say
from lzero.cli.data.arguments import Columns, Source, pairs, write_set
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from lzero.data.stages.leaks import Leak

SHOWN = 10
"""Leaks that a report lists."""
WORDS, SHARE = 8, 0.5


def leaks(
    source: Source,
    against: Annotated[list[str], Option("--against", help="Benchmark: a set or a file of tasks; may be repeated.")],
    out: Annotated[Path | None, Option("--out", help="Write the train set here, if it does not leak.")] = None,
    drop: Annotated[bool, Option("--drop", help="Write it without the rows that leak.")] = False,
    allow: Annotated[bool, Option("--allow", help="Write it with the rows that leak.")] = False,
    words: Annotated[int, Option("--words", min=1, help="Words of an n-gram.")] = WORDS,
    share: Annotated[
        float, Option("--share", min=0.01, max=1.0, help="Share of a question's n-grams from which on a row leaks it.")
    ] = SHARE,
    column: Columns = None,
    json: Annotated[
        bool, Option("--json", help="Print a line of JSON for each leak; with --out, the manifest as one line.")
    ] = False,
) -> None:
    """Report the rows whose question a benchmark asks. With --out, write the set, but refuse if it leaks.

    Example: lzero data leaks train --against dev.jsonl --drop --out clean

    A row leaks if its question is a benchmark's except for case, accents and punctuation, or has enough of its n-grams. Without --out, the
    exit code is 1 if there is a leak.
    """
    from lzero.data.stages.leaks import Leaks

    if drop and allow:
        raise ConfigError("--drop leaves the leaking rows out, and --allow keeps them: give one of the two")
    if out is None:
        if drop or allow:
            raise ConfigError("--drop and --allow have an effect with --out only: name the new set")
        return _report(source, against, words=words, share=share, columns=pairs("--column", column), json=json)
    then: Literal["refuse", "drop", "allow"] = "drop" if drop else "allow" if allow else "refuse"
    return write_set(Leaks(against, words=words, share=share, then=then), [source], out, column=column, json=json)


def _report(source: str, against: list[str], *, words: int, share: float, columns: dict[str, str], json: bool) -> None:
    """Print the leaks, and exit with 1 if there are any."""
    from lzero.data.stages.inputs import opened
    from lzero.data.stages.leaks import Benchmarks, find_leaks
    from lzero.extras import need

    need("data", what="lzero data")
    with opened(against) as benchmarks, opened([source], columns=columns) as (train,):
        found = list(find_leaks(train, Benchmarks(benchmarks, words=words, share=share)))
        _print(found, train.rows, json=json)
    if found:
        raise typer.Exit(1)


def _print(found: "list[Leak]", rows: int, *, json: bool) -> None:
    if json:
        for leak in found:
            print_json(leak)
        return
    from collections import Counter

    from rich.console import Console

    console = Console()
    say(console, f"{len(found):,} of {rows:,} rows leak a benchmark")
    for reason, count in sorted(Counter(leak.reason for leak in found).items()):
        say(console, f"  {count:>10,}  {reason}")
    for leak in found[:SHOWN]:
        say(console, f"  {leak.row}  ←  {leak.benchmark}  ({leak.reason})")
    if len(found) > SHOWN:
        say(console, f"  … and {len(found) - SHOWN:,} more (--json)")
