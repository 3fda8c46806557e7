"""Read the arguments that every command takes: an optional TOML file, then `section.key=value` overrides."""

import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from lzero.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.config import Config
    from lzero.store import RunDirectory

Options = TypeVar("Options")
TOML = ".toml"
Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.toml] [SECTION.KEY=VALUE]...",
        help="A configuration file, then changes to it. Without a file: the defaults, the bundled nano model on the built-in world.",
        show_default=False,
    ),
]


def read_config(arguments: list[str] | None, *, policy: str = "", suites: bool = False) -> "Config":
    """Return the configuration of a command line, with budgets that fit its model, or the `policy` that plays instead.

    With `suites`, an argument that names no configuration file is a suite (`lzero.eval.suites`). Raises ConfigError.
    """
    from lzero.config import ScriptedEngineConfig, make_config, read_values
    from lzero.rollout.budgets import fit_budgets

    files = [argument for argument in arguments or () if "=" not in argument]
    overrides = [argument for argument in arguments or () if "=" in argument]
    names = [each for each in files if suites and not each.endswith(TOML)]
    files = [each for each in files if each not in names]
    if len(names) > 1:
        raise ConfigError(f"more than one suite: {', '.join(names)}. Evaluate one at a time")
    if len(files) > 1:
        raise ConfigError(
            f"more than one configuration file: {', '.join(files)}. Give one file, then section.key=value changes"
        )
    values = read_values(Path(files[0]) if files else None, overrides)
    if names:
        from lzero.eval.suites import with_suite

        values = with_suite(values, names[0])
    config = make_config(values)
    if ":" in policy:  # one of the user's own, which writes any words: a byte is a token
        config = config.model_copy(update={"engine": ScriptedEngineConfig(policy=policy)})
    return fit_budgets(config)


def resumed(path: Path, arguments: list[str] | None, *, command: str) -> "tuple[RunDirectory, Config]":
    """Return the run to resume, and its configuration with the requested changes.

    Raises StoreError if there is none, ConfigError for a run of another `command` and for a change that it may not make.
    """
    from lzero.store import RunDirectory

    overrides = arguments or []
    if any("=" not in argument for argument in overrides):
        raise ConfigError("--resume uses the run's own configuration: give section.key=value changes, and no file")
    run = RunDirectory.open(path, overrides)
    run.check_command(command)
    return run, run.config


def versions_of(runs: Sequence[Path], update: Sequence[int] | None) -> Sequence[int | None]:
    """Return the policy version of each run that `--update` names; None, the last evaluated one, without it. Raises ConfigError."""
    if update and len(update) != len(runs):
        raise ConfigError(
            f"--update is given {len(update)} times for {len(runs)} runs: give it once for each run, in their order"
        )
    return update or [None] * len(runs)


def takes(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Make the fields of a dataclass the arguments and options of a command, which then gets an instance of it."""

    def decorated(command: Callable[[Options], None]) -> Callable[..., None]:
        def called(**given: Any) -> None:
            command(options(**given))

        called.__doc__ = command.__doc__
        called.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]
        return called

    return decorated


def say(console: "Console", text: str) -> None:
    """Print the visible part of a text: without markup and highlights, and with line breaks of its own only."""
    from lzero.visible import clean

    console.print(clean(text), highlight=False, soft_wrap=True, markup=False)


def print_json(value: object) -> None:
    """Print a value as a line of JSON."""
    import msgspec

    print(msgspec.json.encode(value).decode())


def log_visibly(form: str) -> None:
    """Write warnings to stderr, as people see them: a message may quote an agent."""
    from lzero.visible import VisibleFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter(form))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
