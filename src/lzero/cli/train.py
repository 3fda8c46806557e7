"""`lzero train`: reinforcement learning, from a configuration to a learning curve.

lzero train                                            the bundled nano model on the built-in world
lzero train recipes/world.toml algo.kl_coef=0.01
lzero train --resume runs/world-20260131-174501 train.updates=40
lzero train recipes/world.toml train.ranks=2           two processes train together (torchrun: docs/scale.md)
"""

import asyncio
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lzero.cli.arguments import Arguments, read_config, resumed, say
from lzero.cli.interruption import Interruption
from lzero.cli.placing import with_addresses, with_ray
from lzero.errors import ConfigError
from lzero.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from lzero.cli.display import TrainingDisplay
    from lzero.config import Config
    from lzero.store import Record, RunDirectory
    from lzero.train.run import Report

EPISODE_S = 0.065
"""Seconds of one training episode of the nano model in all, on two cores. The first estimate of the run's time uses it."""


def train(
    arguments: Arguments = None,
    resume: Annotated[
        Path | None, typer.Option(help="Resume the run in this directory; section.key=value changes its settings.")
    ] = None,
    addresses: Annotated[
        Path | None, typer.Option(help="Address file: use the pool servers (also later ones) and vLLM servers in it.")
    ] = None,
    ray: Annotated[
        str,
        typer.Option(help="Address of a Ray cluster, or auto: start the run's programs there; short for launch.ray."),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume though tasks, corpus, prompt or model have changed since.")
    ] = False,
) -> None:
    """Train a model by reinforcement learning, with its score on held-out tasks before and after.

    Example: lzero train recipes/world.toml algo.kl_coef=0.01
    """
    from rich.console import Console

    from lzero.cli.display import TrainingDisplay
    from lzero.train.ranks.place import placed

    if accept_changes and not resume:
        raise ConfigError("--accept-changes has an effect with --resume only")
    run, config = resumed(resume, arguments, command="lzero train") if resume else (None, read_config(arguments))
    config, place = placed(with_addresses(with_ray(config, ray), addresses))
    if place is not None and place.rank > 0:
        from lzero.train.ranks.worker import work

        raise typer.Exit(work(config))
    console, interruption = Console(), Interruption()
    say(console, description(config))
    with TrainingDisplay(console, num_updates=config.train.updates) as display, _log_shown(display):
        report = asyncio.run(_train(config, run, display, interruption, accept_changes=accept_changes))
    if report.after is None:
        path = report.run.path
        print(
            f"lzero: stopped after update {report.progress.update}; resume with: lzero train --resume {path}",
            file=sys.stderr,
        )
        raise typer.Exit(interruption.code)
    _show(console, report)
    if json:
        print(_as_json(report))


def description(config: "Config") -> str:
    """Return a description of the run, in a few lines. Raises ConfigError for an episode without enough time."""
    from lzero.config import NANO, names_world
    from lzero.plan import memory_lines
    from lzero.rollout.deadline import budgets_line

    train, rollout = config.train, config.rollout
    where = "the built-in world" if names_world(config.tasks.train) else config.tasks.train
    model = "the bundled nano model" if config.model.path == NANO else config.model.path
    lines = [
        f"lzero trains {model} on {where} by reinforcement learning: {train.updates} updates, each from "
        f"{rollout.tasks_per_update} tasks × {rollout.episodes_per_task} episodes, every episode in a sandboxed Python session of its own.",
        f"An episode may use {budgets_line(config)}.",
        *memory_lines(config),
        f"The model's score on {config.eval.num_tasks} held-out tasks is measured before and after. Ctrl-C stops cleanly.",
    ]
    if config.model.path == NANO and names_world(config.tasks.train) and not config.run.deterministic:
        seconds = train.updates * rollout.tasks_per_update * rollout.episodes_per_task * EPISODE_S
        lines.append(f"On two cores this takes about {counted(max(1, round(seconds / 60)), 'minute')}.")
    return "\n".join(lines)


async def _train(
    config: "Config",
    run: "RunDirectory | None",
    display: "TrainingDisplay",
    interruption: Interruption,
    *,
    accept_changes: bool,
) -> "Report":
    from lzero.train.run import run_training

    def on_stop() -> None:
        display.say(
            "stopping: an update under way finishes, episodes under way are dropped, then the run is saved; Ctrl-C again stops at once"
        )

    with interruption.watched(on_stop, display.close):
        return await run_training(
            config, run=run, watcher=display, stop=interruption.stop, accept_changes=accept_changes
        )


class _Teller(logging.Handler):
    """A log handler that passes warnings to the display."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        from lzero.visible import clean

        self._tell(clean(record.getMessage()))


@contextmanager
def _log_shown(display: "TrainingDisplay") -> Iterator[None]:
    """Show some log messages during the block: errors of any logger on stderr, warnings of some modules on the display.

    The warnings are about the sandbox (making a kernel environment takes time), short batches, failures of a reward function, and a lag
    that is lowered. All other messages go to run.log.
    """
    from lzero.visible import VisibleFormatter

    errors = logging.StreamHandler()
    errors.setFormatter(VisibleFormatter())
    errors.setLevel(logging.ERROR)  # the handler's, not the logger's: that would not hold for records of loggers below
    handlers = {
        "": errors,
        "lzero.repl": _Teller(display.say),
        "lzero.rollout.batch": _Teller(display.note),
        "lzero.rollout.scoring": _Teller(display.note),
        "lzero.train.loop": _Teller(display.note),
    }
    for name, handler in handlers.items():
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name, handler in handlers.items():
            logging.getLogger(name).removeHandler(handler)


def _show(console: "Console", report: "Report") -> None:
    """Print the end of a run: one episode before and after, the scores, the curve, and where everything is."""
    from lzero.cli.transcript import episode_panel
    from lzero.rollout.failures import listed
    from lzero.view.curve import draw_curve

    assert report.before is not None
    assert report.after is not None
    if pair := most_telling(report.before, report.after):
        console.print(episode_panel(pair[0], title="one held-out task, before training"))
        console.print(episode_panel(pair[1], title="the same task, after training"))
    console.print(score_table(report.before, report.after))
    curve = draw_curve(report.run.path)
    failures = listed(report.failures) or "none"
    if report.failing:
        failures += f" (most at {'; '.join(map(str, report.failing))})"
    say(
        console,
        f"{report.progress.update} updates, {report.num_episodes:,} training episodes, failures: {failures}; {report.seconds:.0f} s\n"
        f"learning curve: {curve} (and .svg)\nrun directory:  {report.run.path}",
    )


def most_telling(before: "Sequence[Record]", after: "Sequence[Record]") -> "tuple[Record, Record] | None":
    """Return the record of one task before and after training; None if none was scored both times.

    Prefers a task that was wrong and is now right, with the most hops; otherwise takes the first.
    """
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.scores and new.scores]
    learned = [pair for pair in pairs if pair[0].scores[0] < pair[1].scores[0]]
    return max(learned or pairs[:1], key=lambda pair: pair[0].task.hops or 0, default=None)


def score_table(before: "Sequence[Record]", after: "Sequence[Record]") -> "Table":
    """Return a table of the held-out score before and after, overall and by hops."""
    from rich.table import Table

    from lzero.rollout.summary import mean_score, score_by_hops

    table = Table("held-out tasks", "before", "after", "gain", box=None, header_style="bold", pad_edge=False)
    old_by_hops, new_by_hops = score_by_hops(before), score_by_hops(after)
    rows = [("all", mean_score(before), mean_score(after))]
    rows += [
        (counted(hops, "hop"), old_by_hops.get(hops, math.nan), new_by_hops.get(hops, math.nan))
        for hops in sorted(old_by_hops.keys() | new_by_hops.keys())
    ]
    for name, old, new in rows:
        table.add_row(name, f"{old:.3f}", f"{new:.3f}", f"{new - old:+.3f}")
    return table


def _as_json(report: "Report") -> str:
    import msgspec

    from lzero.rollout.summary import mean_score

    assert report.before is not None
    assert report.after is not None
    line = {
        "score_before": mean_score(report.before),
        "score_after": mean_score(report.after),
        "updates": report.progress.update,
        "seconds": round(report.seconds, 3),
        "episodes": report.num_episodes,
        "failures": report.failures,
        "run_dir": str(report.run.path),
    }
    return msgspec.json.encode(line).decode()
