"""`lzero data stratify`: a sample that is balanced over strata.

lzero data stratify rated --by difficulty --by source --rows 20000 --out balanced
"""

from typing import Annotated

from typer import Option

from lzero.cli.data.arguments import AsJson, Columns, Out, Source, write_set


def stratify(
    source: Source,
    out: Out,
    by: Annotated[
        list[str], Option("--by", help="Value whose rows make a stratum: hops, source, a rating …; may be repeated.")
    ],
    rows: Annotated[int, Option("--rows", min=1, help="Number of rows in all.")],
    proportional: Annotated[
        bool,
        Option("--proportional", help="Keep the shares of the strata; else each gives the same number, if it can."),
    ] = False,
    seed: Annotated[int, Option("--seed", help="Seed of the draw.")] = 0,
    column: Columns = None,
    json: AsJson = False,
) -> None:
    """Draw rows from each stratum, and keep their order. The manifest tells how many each gave.

    Example: lzero data stratify train --by hops --rows 3000 --out balanced
    """
    from lzero.data.stages.stratify import Stratify

    stage = Stratify(by=by, size=rows, seed=seed, proportional=proportional)
    write_set(stage, [source], out, column=column, json=json)
