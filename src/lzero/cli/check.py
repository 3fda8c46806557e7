"""`lzero check`: find what would end or spoil a run, before it starts."""

import sys
from collections.abc import Sequence
from itertools import islice

import typer

from lzero.cli.arguments import Arguments, read_config

SHOWN = 10


def check(arguments: Arguments = None) -> None:
    """Check a run before it starts: settings, task files, leaks, corpus, tools, reward, chat template, model, engine, prompts.

    Every gold answer must score 1, an empty one 0, and no held-out question may be trained on. The model is loaded as a run loads it.

    Example: lzero check recipes/world.toml tasks.eval=questions.jsonl

    Each problem is one line on stderr. Exits with code 1 if there are any.
    """
    from rich.console import Console
    from rich.table import Column, Table

    from lzero.train.preflight import run_checks

    table = Table(Column("", overflow="fold"), "checked", "problems", title="checks before a run")
    problems: list[str] = []
    for line in run_checks(read_config(arguments)):
        table.add_row(line.name, line.looked_at, str(len(line.problems)))
        problems += line.problems
    Console(markup=False).print(table)  # a path may hold brackets
    if problems:
        _print(problems)
        raise typer.Exit(1)


def _print(problems: Sequence[str]) -> None:
    from lzero.visible import clean

    for problem in islice(problems, SHOWN):
        print(f"lzero: {clean(problem)}", file=sys.stderr)  # it may quote a file
    if len(problems) > SHOWN:
        print(f"… and {len(problems) - SHOWN:,} more", file=sys.stderr)
