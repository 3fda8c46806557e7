"""`lzero show`: an episode, step by step."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lzero.cli.saved import EpisodeId, SavedPath, open_saved
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.store import SavedEpisode


def show(
    path: SavedPath,
    step: Annotated[int | None, typer.Option("--step", min=1, help="Print only this step, from 1.")] = None,
    episode: EpisodeId = "",
    json: Annotated[bool, typer.Option("--json", help="Print the episode, or the step, as one line of JSON.")] = False,
) -> None:
    """Print a saved episode: thoughts, code, outputs, tool calls, notepad, answer.

    Example: lzero show runs/run-20260131-174501 --step 2
    """
    saved = open_saved(path, episode)
    steps = saved.episode.steps
    if step is not None and step > len(steps):
        raise ConfigError(f"--step {step}: the episode has {len(steps)} steps")
    if json:
        import msgspec

        whole = msgspec.json.encode(steps[step - 1] if step else saved)
        sys.stdout.buffer.write(whole + b"\n")
        return
    from rich.console import Console

    from lzero.store import read_drop_reason

    console = Console()
    _print(console, saved, range(step, step + 1) if step else range(1, len(steps) + 1), whole=step is None)
    reason = read_drop_reason(path, episode) if episode and not step else ""
    if reason:
        console.print(f"not trained on: {reason}", style="dim", markup=False, highlight=False)


def _print(console: "Console", saved: "SavedEpisode", numbers: range, *, whole: bool) -> None:
    from rich.text import Text

    from lzero.agent.outputs import clean
    from lzero.cli.steps import StepPrinter

    printer = StepPrinter(console, saved.episode.budgets)
    if whole:
        console.print(Text(clean(saved.task.question), style="bold"))
        made_by = f"{clean(saved.model)} · episode {clean(saved.episode.id)} · lzero {clean(saved.lzero)}"
        console.print(Text(made_by, style="dim"))
    for number in numbers:
        printer.print_step(saved.episode.steps[number - 1], number)
    if whole:
        printer.print_answer(saved.episode)
