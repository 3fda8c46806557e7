"""`lzero data assess`: a model rates the questions of a set.

lzero data assess clean judge.model=Qwen3-8B judge.url=http://localhost:8000/v1 judge.key= --out rated
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from lzero.cli.arguments import say, takes
from lzero.cli.data.arguments import AsJson, Columns, Out, Source, write_set
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.config import Config
    from lzero.types import Usage


@dataclass(frozen=True, kw_only=True)
class Assessing:
    """Options of `lzero data assess`."""

    source: Source
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.toml] [judge.KEY=VALUE]...",
            help="The judge: a file with [judge], then changes.",
            show_default=False,
        ),
    ] = None
    out: Out
    tries: Annotated[int, Option("--tries", min=1, help="Questions for one row while its verdict is malformed.")] = 3
    skip_failed: Annotated[
        bool, Option("--skip-failed", help="Keep rows for which the judge gives no reply, without ratings.")
    ] = False
    column: Columns = None
    json: AsJson = False


@takes(Assessing)
def assess(wanted: Assessing) -> None:
    """Let a model rate each question: objectivity and stability over time (-1, 0, 1), and difficulty (1 to 5).

    Example: lzero data assess clean judge.model=Qwen3-8B judge.url=http://localhost:8000/v1 judge.key= --out rated

    The ratings are in the metadata: objectivity, stability, rated_difficulty. Every reply is kept. After an interruption or a failure, run
    the command again: it asks only what has no reply yet.
    """
    from rich.console import Console

    from lzero.data.stages.assess import Assess
    from lzero.rollout.compose import open_judge

    config = _config(wanted.changes or [])
    judge = open_judge(config)
    assert judge is not None
    console = Console(stderr=True)
    with console.status("asking the judge") as status:
        stage = Assess(
            judge,
            at_once=config.judge.at_once,
            tries=wanted.tries,
            skip_failed=wanted.skip_failed,
            settings=config.judge.model_dump(include={"model", "temperature", "max_tokens"}),
            on_row=_progress(status.update, lambda: judge.spent),
        )
        try:
            write_set(stage, [wanted.source], wanted.out, column=wanted.column, json=wanted.json)
        finally:
            _print_cost(console, judge.take_metrics(), judge.spent)


def _config(arguments: list[str]) -> "Config":
    """Return the configuration with the judge. Raises ConfigError."""
    from lzero.config import load_config

    files = [argument for argument in arguments if "=" not in argument]
    changes = [argument for argument in arguments if "=" in argument]
    if len(files) > 1:
        raise ConfigError(f"more than one configuration file: {', '.join(files)}. Name one set, and one file at most")
    if wrong := [change for change in changes if not change.startswith(("judge.", "tools.env_file", "run.seed"))]:
        raise ConfigError(f"{wrong[0]!r} has no effect on a judge: change judge.*")
    config = load_config(Path(files[0]) if files else None, changes)
    if not config.judge.model:
        raise ConfigError("name the judge: judge.model=NAME, and judge.url=http://… for an endpoint of yours")
    return config


def _progress(update: Callable[[str], None], spent: "Callable[[], Usage]") -> Callable[[Mapping[str, int], int], None]:
    """Return what shows the counts so far, and the cost, with `update`."""

    def show(counts: Mapping[str, int], total: int) -> None:
        done = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
        update(f"{done} of {total:,} rows; {_cost(spent())}")

    return show


def _print_cost(console: "Console", asked: Mapping[str, float], spent: "Usage") -> None:
    say(
        console,
        f"judge: {asked['judge/asked']:,.0f} questions asked, {asked['judge/known']:,.0f} known; {_cost(spent)}",
    )


def _cost(spent: "Usage") -> str:
    cost = "" if spent.cost_usd is None else f", ${spent.cost_usd:.4f}"
    return f"{spent.prompt_tokens:,} tokens read, {spent.completion_tokens:,} written{cost}"
