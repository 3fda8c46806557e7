"""What the commands of `lzero data` share: their arguments, and what they print."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from lzero.cli.arguments import print_json, say
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.data.manifest import Manifest
    from lzero.data.stages import Stage

Sources = Annotated[
    list[str], typer.Argument(metavar="SET...", help="Sets (directories that lzero data wrote), or files of tasks.")
]
Source = Annotated[
    str, typer.Argument(metavar="SET", help="A set (a directory that lzero data wrote), or a file of tasks.")
]
Out = Annotated[Path, Option("--out", help="The new set's directory, which must not exist.")]
AsJson = Annotated[bool, Option("--json", help="Print the manifest as a line of JSON.")]
Columns = Annotated[
    list[str] | None,
    Option("--column", metavar="FIELD=COLUMN", help="Column of a file that holds a field of a task, as tasks.columns."),
]


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """Return the pairs of an option that is given as NAME=VALUE, several times. Raises ConfigError."""
    found: dict[str, str] = {}
    for each in given or ():
        name, sign, value = each.partition("=")
        if not sign or not name:
            raise ConfigError(f"{option} {each!r}: write NAME=VALUE")
        if name in found:
            raise ConfigError(f"{option} names {name!r} twice: give it once")
        found[name] = value
    return found


def write_set(stage: "Stage", sources: Sequence[str], out: Path, *, column: Sequence[str] | None, json: bool) -> None:
    """Run a stage, and print what it did. Raises ConfigError, DataError, StoreError."""
    from lzero.data.stages import run_stage
    from lzero.extras import need

    need("data", what="lzero data")
    print_manifest(run_stage(stage, sources, out, columns=pairs("--column", column)), out, json=json)


def print_manifest(manifest: "Manifest", directory: Path, *, json: bool) -> None:
    """Print a manifest: rows in and out, rows dropped by reason, and counts."""
    if json:
        print_json(manifest)
        return
    from rich.console import Console

    console = Console()
    say(console, f"{manifest.stage}: {manifest.rows_in:,} rows in, {manifest.rows_out:,} in {directory}")
    for each in manifest.inputs:
        _list(console, f"{each.name}:", each.counts)
    _list(console, "dropped", manifest.dropped)
    _list(console, "counted", manifest.counts)


def _list(console: "Console", title: str, numbers: Mapping[str, int]) -> None:
    for name, number in numbers.items():
        say(console, f"  {title} {number:>10,}  {name}")
