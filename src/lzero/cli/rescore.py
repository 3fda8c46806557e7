"""`lzero rescore`: apply another reward to the stored episodes of a run.

lzero rescore runs/world-eval reward.match=ascii
lzero rescore runs/world-eval --reward gaia
lzero rescore runs/world --reward mine:brief --out brief.jsonl
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from lzero.cli.arguments import say, takes
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.config import Config, RewardConfig
    from lzero.eval.rescore import Change

SECTIONS = ("reward.", "judge.")
"""Beginnings of the keys that may be changed."""
PROBLEMS = 3
"""The most different problems that are listed for an evaluation or update."""


@dataclass(frozen=True, kw_only=True)
class Rescoring:
    """Options of `lzero rescore`."""

    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of an evaluation or a training run.")]
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Changes to [reward] and [judge].", show_default=False),
    ] = None
    reward: Annotated[
        str,
        Option(
            "--reward",
            help="Score of an answer (em, f1, contains, numeric, math, gaia) or reward, by name or as package.module:name; the run's other "
            "keys of [reward] are dropped.",
        ),
    ] = ""
    out: Annotated[
        Path | None, Option("--out", help="File for a line of JSON for each episode: old and new score and reward.")
    ] = None
    json: Annotated[bool, Option("--json", help="Print a line of JSON for each evaluation and update.")] = False


@takes(Rescoring)
def rescore(wanted: Rescoring) -> None:
    """Score the stored episodes of a run with another reward. No episode runs, and the stored rewards stay as they are.

    Example: lzero rescore runs/world-eval --reward mine:brief

    For a training run it also prints how the advantages would have changed. New verdicts of a judge are added to those of the run. Code
    of a reward, and the judge, are those of the command line: the run may be a stranger's.
    """
    from rich.console import Console

    if wanted.out is not None and wanted.out.exists():
        raise ConfigError(f"--out {wanted.out} exists: name a new file")
    if wanted.out is not None and not wanted.out.parent.is_dir():
        raise ConfigError(f"--out {wanted.out}: there is no directory {wanted.out.parent}")
    config = _config(wanted)
    asyncio.run(_rescore(wanted, config, Console()))


def _config(wanted: Rescoring) -> "Config":
    """Return a configuration with the other reward. The run may be a stranger's, so no code, key or address that it names is in it.

    Raises ConfigError, StoreError.
    """
    from lzero.config import load_config
    from lzero.rewards.scores import reward_key
    from lzero.store import RunDirectory

    changes = list(wanted.changes or ())
    if wrong := [change for change in changes if not change.startswith(SECTIONS)]:
        raise ConfigError(f"{wrong[0]!r} has no effect on stored episodes: change reward.* or judge.*")
    if not (wanted.reward or changes):
        raise ConfigError(
            "name another reward: --reward gaia, --reward package.module:name, or changes such as reward.match=ascii"
        )
    stored = RunDirectory.open(wanted.run).config
    if wanted.reward:
        given = load_config(None, [*changes, f"{reward_key(wanted.reward)}={wanted.reward}"])
        reward = given.reward
    else:
        given = load_config(None, [change for change in changes if change.startswith("judge.")])
        reward = load_config(wanted.run / "config.toml", changes).reward
        _check_code(reward, changes)
    run = given.run.model_copy(update={"seed": stored.run.seed})
    return given.model_copy(update={"reward": reward, "run": run, "algo": stored.algo})


def _check_code(reward: "RewardConfig", changes: list[str]) -> None:
    """Raise ConfigError for a reward that is code unless the command line names it."""
    for name in ("score", "function"):
        setting = f"reward.{name}={getattr(reward, name)}"
        if ":" in setting and setting not in changes:
            raise ConfigError(
                f"the run scores by {setting}, which is code, maybe a stranger's: add {setting} if you trust it"
            )


async def _rescore(wanted: Rescoring, config: "Config", console: "Console") -> None:
    import msgspec

    from lzero.eval.rescore import rescore as again
    from lzero.rollout.compose import open_scorer
    from lzero.store.writing import append_whole

    scorer = open_scorer(config)
    scorer.keep_verdicts(wanted.run)
    try:
        async for change, lines in again(wanted.run, scorer, algo=config.algo):
            if wanted.out is not None:
                append_whole(wanted.out, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
            if wanted.json:
                sys.stdout.buffer.write(msgspec.json.encode(change) + b"\n")
            else:
                _print(console, change)
                for problem in list(dict.fromkeys(line.problem for line in lines if line.problem))[:PROBLEMS]:
                    say(console, f"  {problem}")
    finally:
        if scorer.judge is not None:
            await scorer.judge.close()


def _print(console: "Console", change: "Change") -> None:
    from lzero.text import counted

    failed = f"; {counted(change.num_failed, 'episode')} could not be scored" if change.num_failed else ""
    say(
        console,
        f"{change.phase} {change.update}: score {change.score:.3f} → {change.new_score:.3f} over "
        f"{counted(change.num_episodes, 'episode')} ({change.num_up} up, {change.num_down} down){failed}",
    )
    if change.advantages is not None:
        own = change.advantages
        say(
            console,
            f"  advantages of {counted(own.num_steps, 'step')}: correlation {own.correlation:.2f}, {own.opposite:.0%} of another sign",
        )
