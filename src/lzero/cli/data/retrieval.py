"""`lzero data retrieval`: how often one search with the question finds the gold passages.

lzero data retrieval dev.jsonl                              in each task's own passages
lzero data retrieval dev.jsonl --corpus corpus.jsonl        in a corpus
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from lzero.cli.arguments import print_json, say
from lzero.cli.data.arguments import Columns, Source, pairs
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.eval.retrieval import Recall
    from lzero.protocols import SearchIndex
    from lzero.types import Task

AT = "1,2,5,10,20"
MAX_AT = 1_000


def retrieval(
    tasks: Source,
    corpus: Annotated[
        str, Option("--corpus", help="File of passages, or directory of documents; default: each task's own passages.")
    ] = "",
    at: Annotated[
        str, Option("--at", metavar="K,K,…", help="Numbers of results among which gold passages count.")
    ] = AT,
    column: Columns = None,
    json: Annotated[bool, Option("--json", help="Print a line of JSON, with every interval.")] = False,
) -> None:
    """Report the recall of gold passages by source: one search of lzero's index for each task, with its question as the query.

    Example: lzero data retrieval dev.jsonl --corpus corpus.jsonl --at 5,10
    """
    numbers = _numbers(at)
    from lzero.config import TasksConfig
    from lzero.data.sources import open_source
    from lzero.eval.retrieval import measure

    source = open_source(tasks, split="eval", seed=0, config=TasksConfig(eval=tasks, columns=pairs("--column", column)))
    if len(source) == sys.maxsize:
        raise ConfigError(f"{tasks!r} has no end: name a set or a file of tasks")
    listed = (source.task(index) for index in range(len(source)))
    found = measure(listed, _searching(corpus), at=numbers)
    if json:
        print_json(found)
        return
    from rich.console import Console

    from lzero.text import counted

    console = Console()
    _show(console, found.rows, numbers)
    if found.num_unlabelled:
        say(console, f"{counted(found.num_unlabelled, 'task')} without gold titles left out")


def _numbers(at: str) -> list[int]:
    """Return the numbers of --at, rising. Raises ConfigError."""
    parts = [part.strip() for part in at.split(",")]
    if not all(part.isascii() and part.isdecimal() and 1 <= int(part[:9]) <= MAX_AT for part in parts):
        raise ConfigError(f"--at {at!r}: give numbers from 1 to {MAX_AT:,}, as in --at 5,10")
    return sorted({int(part) for part in parts})


def _searching(corpus: str) -> "Callable[[Task], SearchIndex | None]":
    from lzero.data.files import read_passages
    from lzero.tools.corpus import open_corpus
    from lzero.tools.search import PassageIndex

    if not corpus:
        return lambda task: PassageIndex(task.passages) if task.passages else None
    index = open_corpus(Path(corpus).expanduser(), read_passages)
    return lambda task: index


def _show(console: "Console", rows: "tuple[Recall, ...]", at: list[int]) -> None:
    last = at[-1]
    width = max(len("source"), *(len(row.source) for row in rows))
    say(
        console,
        f"{'source':<{width}}  tasks  {'  '.join(f'@{k:<5}' for k in at)}  95 % at {last:<6}  all found at {last}",
    )
    for row in rows:
        low, high = row.interval[last]
        shares = "  ".join(f"{row.recall[k]:<6.3f}" for k in at)
        say(
            console,
            f"{row.source:<{width}}  {row.num_tasks:>5}  {shares}  {low:.3f} to {high:.3f}  {row.complete[last]:.3f}",
        )
