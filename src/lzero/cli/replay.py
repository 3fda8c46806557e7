"""`lzero replay`: run the code of an episode again, and compare the results."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lzero.cli.arguments import say
from lzero.cli.saved import SavedPath, open_saved
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from lzero.agent.replay import Difference
    from lzero.config import Config
    from lzero.store import SavedEpisode

KEYS = ("repl.", "agent.cell_s=", "agent.max_steps=")
"""Prefixes of the settings that have an effect."""
DIFF_CHARS = 4_000
"""The most characters of a difference that are shown."""


def replay(
    path: SavedPath,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EPISODE] [KEY=VALUE]...",
            help="Id of an episode of a training run; changes to the sandbox's settings, agent.cell_s and agent.max_steps.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="A file of the task that the record has no copy of (repeatable)."),
    ] = None,
) -> None:
    """Run a saved episode's code again in a fresh sandbox, with recorded tool results; exits with 1 if anything differs.

    Example: lzero replay runs/run-20260131-174501

    Replay compares each cell's status, outputs, tool calls and the notepad, and ignores addresses, durations and directories in
    tracebacks. It takes a recorded limit only if that is tighter than yours, because a record may come from a stranger.
    For the same reason it gives the session only the copies of files in the record's directory, and those that --file names.
    """
    names = [argument for argument in arguments or () if "=" not in argument]
    overrides = [argument for argument in arguments or () if "=" in argument]
    if len(names) > 1:
        raise ConfigError(f"more than one episode: {', '.join(names)}")
    saved = open_saved(path, names[0] if names else "").saved
    others = [override for override in overrides if not override.startswith(KEYS)]
    if others:
        raise ConfigError(
            f"{others[0]!r} has no effect: a replay takes keys of [repl], agent.cell_s and agent.max_steps"
        )
    from rich.console import Console

    from lzero.agent.replay import CELL_S, MAX_CELLS, looser_budgets, repl_config
    from lzero.agent.save import given_files
    from lzero.config import load_config

    console = Console()
    own = load_config(None, [f"agent.cell_s={CELL_S}", f"agent.max_steps={MAX_CELLS}", *overrides])
    repl, differing = repl_config(saved, own.repl)
    looser = looser_budgets(saved, cell_s=own.agent.cell_s, max_cells=own.agent.max_steps)
    for setting in (*differing, *looser):
        say(
            console,
            f"the episode was recorded with {setting}, which replay does not take from a record; to use it, add it to the command line",
        )
    files, missing = given_files(path, saved, file or ())
    for name in missing:
        say(console, f"the record has no copy of {name}, so the cells will not find it: give it with --file")
    differences = asyncio.run(_replay(saved, own.model_copy(update={"repl": repl}), files, console))
    say(console, _verdict(saved, differences, own.agent.max_steps))
    if differences:
        raise typer.Exit(1)


async def _replay(
    saved: "SavedEpisode", config: "Config", files: "Sequence[Path]", console: "Console"
) -> "tuple[Difference, ...]":
    from lzero.agent.outputs import cut
    from lzero.agent.replay import replay as run_again
    from lzero.repl import open_pool
    from lzero.types import Step

    def on_step(number: int, step: Step, found: "tuple[Difference, ...]") -> None:
        status = step.execution.status if step.execution else ""
        say(console, f"step {number}: " + (f"{status}, same as recorded" if not found else "differs"))
        for difference in found:
            say(console, f"{difference.of}:\n{cut(difference.diff, DIFF_CHARS)}")

    agent = config.agent
    pool = open_pool(config.repl)
    try:
        await pool.start()
        return await run_again(
            saved, pool, files=files, cell_s=agent.cell_s, max_cells=agent.max_steps, on_step=on_step
        )
    finally:
        await pool.close()


def _verdict(saved: "SavedEpisode", differences: "tuple[Difference, ...]", max_cells: int) -> str:
    from lzero.text import counted

    cells = min(max_cells, sum(step.parsed.code is not None for step in saved.episode.steps))
    differing = len({difference.step for difference in differences})
    if not differing:
        return f"no differences in {counted(cells, 'cell')}"
    return f"{differing} of {cells} {'cell differs' if cells == 1 else 'cells differ'}"
