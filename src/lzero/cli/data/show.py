"""`lzero data show`: page through the rows of a set, or of any source of tasks.

lzero data show data/hotpotqa --page 2
lzero data show data/hotpotqa --id 5a8b57f25542995d1e6f1371
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from lzero.cli.arguments import say
from lzero.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.types import Task

CHARS = 60
"""Characters of a question or an answer in a line."""
TEXT_CHARS = 2_000
"""Characters of a passage, when one task is printed."""


def show(
    source: Annotated[
        str, typer.Argument(metavar="SET", help="A set, or what tasks.train takes: a file, a directory, hf:….")
    ],
    page: Annotated[int, Option(min=1, help="Which page, from 1.")] = 1,
    limit: Annotated[int, Option(min=1, max=10_000, help="Rows of a page.")] = 20,
    split: Annotated[str, Option(help="Only rows of this split.")] = "",
    dropped: Annotated[bool, Option("--dropped", help="The rows that the set dropped, with their reasons.")] = False,
    identifier: Annotated[str, Option("--id", help="Print all of the task with this id.")] = "",
    json: Annotated[bool, Option("--json", help="Print a line of JSON for each row.")] = False,
) -> None:
    """Page through the rows of a set.

    Example: lzero data show data/hotpotqa --split validation --page 2
    """
    from rich.console import Console

    rows = _dropped(source) if dropped else ((task, "") for task in _tasks(source))
    rows = ((task, why) for task, why in rows if split in ("", task.split) and identifier in ("", task.id))
    start = (page - 1) * limit
    found = list(itertools.islice(rows, start, start + limit + 1))
    shown = found[:limit]
    if not shown:
        asked = f" on page {page}" if page > 1 else ""
        raise ConfigError(f"{source} has no such rows{asked}")
    if json:
        import msgspec

        for task, why in shown:
            line = msgspec.to_builtins(task) | ({"dropped": why} if why else {})
            sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        return
    console = Console()
    if identifier:
        _print_whole(console, *shown[0])
        return
    _print(console, shown)
    more = f"; more: --page {page + 1}" if len(found) > limit else ""
    console.print(f"{start + 1:,} to {start + len(shown):,}{more}; one of them: --id ID", style="dim", highlight=False)


def _tasks(source: str) -> "Iterator[Task]":
    """Yield the tasks of a source, a set's one batch at a time."""
    from lzero.data.files import Reading, read_located
    from lzero.data.manifest import TASKS_FILE, is_set
    from lzero.data.sources import locate_spec
    from lzero.data.table import check_table, read_batches, to_tasks

    path = Path(source).expanduser()
    if not is_set(path):
        yield from read_located(locate_spec(source, key="SET"), Reading()).tasks
        return
    check_table(path / TASKS_FILE)
    for batch in read_batches(path / TASKS_FILE):
        yield from to_tasks(batch)


def _dropped(source: str) -> "Iterator[tuple[Task, str]]":
    """Yield the rows that a set dropped, each with stage, reason and detail."""
    import msgspec

    from lzero.data.files import TASK_BYTES
    from lzero.data.manifest import DROPPED_FILE, is_set
    from lzero.data.rows import read_rows
    from lzero.types import Task

    path = Path(source).expanduser()
    if not is_set(path):
        raise ConfigError(f"--dropped: {source} is no set that lzero data wrote, so nothing was dropped from it")
    for _, row in read_rows(path / DROPPED_FILE, max_bytes=TASK_BYTES):
        fields = dict(row.fields)
        told = [str(value) for name in ("stage", "reason", "detail") if (value := fields.pop(name, None))]
        try:
            yield msgspec.convert(fields, Task), ": ".join(told)
        except msgspec.ValidationError as error:
            raise DataError(f"{row.where} is no dropped task: {error}") from None


def _print(console: "Console", rows: "list[tuple[Task, str]]") -> None:
    from rich.text import Text

    lines = [("id", "split", "ability", "question", "answers")]
    for task, why in rows:
        answers = why or " | ".join(task.answers)
        lines.append(
            (_short(task.id, 40), _short(task.split, 12), task.ability, _short(task.question), _short(answers))
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        console.print(Text(text, style="bold" if number == 0 else ""), soft_wrap=True)


def _print_whole(console: "Console", task: "Task", why: str) -> None:
    parts = {
        "question": task.question,
        "answers": " | ".join(task.answers),
        "dropped": why,
        "id": task.id,
        "source": task.source,
        "split": task.split,
        "ability": task.ability,
        "hops": _number(task.hops),
        "difficulty": _number(task.difficulty),
        "files": ", ".join(task.files),
        "licence": task.licence,
        "revision": task.revision,
    }
    for name, value in (parts | task.metadata).items():
        if value:
            say(console, f"{name:<12}{value}")
    for passage in task.passages:
        say(console, f"\n{passage.title}\n{passage.text[:TEXT_CHARS]}{'…' if len(passage.text) > TEXT_CHARS else ''}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _short(text: str, chars: int = CHARS) -> str:
    from lzero.text import shortened
    from lzero.visible import clean

    return shortened(clean(text[: 4 * chars]), chars)
