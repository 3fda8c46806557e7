"""`lzero data download`: public data sets as sets of tasks.

lzero data download hotpotqa musique --out data
lzero data download gsm8k --from copies --out data
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from lzero.cli.arguments import print_json, say
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.data.download import Downloaded
    from lzero.data.public_sets import PublicSet


def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Sets, as NAME or NAME@COMMIT; without one: list them.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, Option("--out", help="Directory in which each set gets a directory of its name.")] = Path(
        "data"
    ),
    origin: Annotated[
        Path | None,
        Option(
            "--from", help="Directory of local copies, a folder a set, instead of the sets' homes.", show_default=False
        ),
    ] = None,
    home: Annotated[
        str,
        Option("--home", metavar="OWNER/NAME", help="Another home on the Hugging Face Hub, of one set that has moved."),
    ] = "",
    json: Annotated[bool, Option("--json", help="Print a line of JSON for each set: its manifest.")] = False,
) -> None:
    """Fetch public data sets, each as a set of tasks. A set that is there is not fetched again.

    Example: lzero data download hotpotqa musique --out data
    """
    from rich.console import Console

    from lzero.data.public_sets import PUBLIC_SETS, public_set

    console = Console()
    if not names:
        _list(console, PUBLIC_SETS.values())
        return
    wanted = [(public_set(name.partition("@")[0]), name.partition("@")[2]) for name in names]
    if home and (len(wanted) > 1 or origin is not None):
        raise ConfigError("--home names the home of one set: give one NAME, and no --from")
    if origin is not None:
        if revisions := [revision for _, revision in wanted if revision]:
            raise ConfigError(f"@{revisions[0]} has no effect with --from: a local copy is read as it is")
        if not origin.is_dir():
            raise ConfigError(f"--from {origin}: there is no such directory")
    from lzero.extras import need

    need("data", what="lzero data download")
    from lzero.data.download import download as fetch

    for known, revision in wanted:
        done = fetch(known, out, origin=origin, home=home, revision=revision)
        _print(console, known, out / known.name, done, json=json)


def _list(console: "Console", known: "Iterable[PublicSet]") -> None:
    for each in known:
        gated = " (gated: ask for access at its home)" if each.gated else ""
        licence = each.licence or "no licence named"
        say(console, f"{each.name:<20}{each.title}; {', '.join(each.splits)}; {licence}; {each.home}{gated}")


def _print(console: "Console", known: "PublicSet", directory: Path, done: "Downloaded", *, json: bool) -> None:
    from lzero.text import counted

    manifest = done.manifest
    if json:
        print_json(manifest)
        return
    if done.was_there:
        say(console, f"{known.name}: {directory} is there already, with {counted(manifest.rows_out, 'task')}")
        return
    counts: Counter[str] = Counter()
    for each in manifest.inputs:
        counts.update(each.counts)
    notes = [f"{number:,} {what}" for what, number in counts.items()]
    notes += [f"{number:,} dropped: {reason}" for reason, number in manifest.dropped.items()]
    notes += [f"not in the copy: {each}" for each in done.missing]
    if not known.licence:
        notes.append("its authors name no licence")
    say(console, f"{known.name}: {counted(manifest.rows_out, 'task')} in {directory}; {'; '.join(notes)}")
