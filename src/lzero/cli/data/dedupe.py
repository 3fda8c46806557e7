"""`lzero data dedupe`: drop rows whose question an earlier row asks.

lzero data dedupe merged --out unique
lzero data dedupe merged --near --threshold 0.85 --out unique
"""

from typing import Annotated

from typer import Option

from lzero.cli.data.arguments import AsJson, Columns, Out, Source, write_set
from lzero.errors import ConfigError

THRESHOLD = 0.8


def dedupe(
    source: Source,
    out: Out,
    near: Annotated[bool, Option("--near", help="Drop questions that are nearly the same, too.")] = False,
    threshold: Annotated[
        float | None,
        Option(
            "--threshold", min=0.3, max=1.0, help=f"Similarity from which on --near drops a row; default {THRESHOLD}."
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        Option("--by", help="Column in which duplicates must be equal, too: answers, passages, source …"),
    ] = None,
    column: Columns = None,
    json: AsJson = False,
) -> None:
    """Keep the first row of each question. Case, accents and punctuation make no difference; numbers and files do.

    Example: lzero data dedupe merged --near --out unique
    """
    from lzero.data.stages.dedupe import BY, Exact
    from lzero.data.stages.near import Near

    if threshold is not None and not near:
        raise ConfigError("--threshold has an effect with --near only: add it, or leave --threshold out")
    if wrong := [name for name in by or () if name not in BY]:
        raise ConfigError(f"--by {wrong[0]!r}: name one of {', '.join(BY)}")
    stage = Near(threshold=threshold or THRESHOLD, by=by or ()) if near else Exact(by=by or ())
    write_set(stage, [source], out, column=column, json=json)
