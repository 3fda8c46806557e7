"""List the episodes of a training run as a table, page by page."""

import math
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.errors import ConfigError
from lzero.text import counted, shortened

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.cli.show import Shown
    from lzero.store import EpisodeLine

PAGE = 40
"""Number of episodes on a page."""
CHARS = 40
"""The most characters of an answer, task id or note in a line."""


def list_run(choice: "Shown") -> None:
    """Print the chosen episodes of a run. Raises StoreError, and ConfigError for a page that does not exist."""
    from lzero.store import list_episodes

    every = list(list_episodes(choice.path))
    lines = [line for line in every if _is_chosen(line, choice)]
    if choice.json:
        import msgspec

        shown = lines if choice.limit is None and choice.page is None else _page(lines, choice)[0]
        sys.stdout.buffer.writelines(msgspec.json.encode(line) + b"\n" for line in shown)
        return
    from rich.console import Console

    shown, first, of = _page(lines, choice)
    _print(Console(), choice.path, shown, first=first, total=len(lines), of=of)
    if lines:
        _print_failing(Console(), every)


def _is_chosen(line: "EpisodeLine", choice: "Shown") -> bool:
    kinds = [line.status == "failed"] * choice.failed + [line.is_wrong] * choice.wrong
    return (not kinds or any(kinds)) and choice.task in ("", line.task)


def _page(lines: "Sequence[EpisodeLine]", choice: "Shown") -> "tuple[list[EpisodeLine], int, str]":
    """Return the lines of the page, the number of the first (from 1), and " (page 2 of 3…)", or "" if there is one page only."""
    limit, page = choice.limit or PAGE, choice.page or 1
    pages = max(1, math.ceil(len(lines) / limit))
    if page > pages:
        raise ConfigError(f"--page {page}: there {'is 1 page' if pages == 1 else f'are {pages} pages'}")
    start = (page - 1) * limit
    of = f" (page {page} of {pages}: --page N)" if pages > 1 else ""
    return list(islice(lines, start, start + limit)), start + 1, of


def _print(console: "Console", run: Path, lines: "Sequence[EpisodeLine]", *, first: int, total: int, of: str) -> None:
    from rich.text import Text

    if not total:
        console.print(Text(f"{run} has no such episodes"))
        return
    heads = ("episode", "task", "status", "score", "reward", "steps", "answer")
    rows = [heads, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    for number, row in enumerate(rows):
        text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        console.print(Text(text, style="bold" if number == 0 else ""), soft_wrap=True)
    last = first + len(lines) - 1
    console.print(
        Text(f"{first:,} to {last:,} of {counted(total, 'episode')}{of}; one of them: lzero show {run} EPISODE", "dim"),
        soft_wrap=True,
    )


def _print_failing(console: "Console", lines: "Sequence[EpisodeLine]") -> None:
    """Print the number of failed episodes of the run, and the tasks with the most failures."""
    from rich.text import Text

    from lzero.rollout.failures import TaskFailures, by_task

    found = by_task(
        TaskFailures(task=line.task, attempts=1, failed=int(line.status == "failed"), kinds=_kinds(line))
        for line in lines
    )
    if found.failed_attempts:
        most = "; ".join(shortened(str(each), 80) for each in found.worst)
        episodes = f"{found.failed_attempts:,} of {counted(found.attempts, 'episode')}"
        told = f"failed: {episodes}, at {found.failing_tasks:,} of {counted(found.tasks, 'task')}; most at {most}"
        console.print(Text(told, style="red"), soft_wrap=True)


def _kinds(line: "EpisodeLine") -> dict[str, int]:
    return {line.note.partition(":")[0]: 1} if line.status == "failed" else {}


def _cells(line: "EpisodeLine") -> tuple[str, ...]:
    score, reward = ("" if value is None else f"{value:.3g}" for value in (line.score, line.reward))
    said = line.note or ("" if line.answer is None else repr(line.answer))
    status = line.status.replace("_", " ")
    return (
        shortened(line.id, 80),
        shortened(line.task, CHARS),
        status,
        score,
        reward,
        str(line.steps),
        shortened(said, CHARS),
    )
