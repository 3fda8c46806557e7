"""`lzero data merge`: several sets or files of tasks as one set.

lzero data merge train.jsonl raw/nq --out merged
"""

from typing import Annotated

from typer import Option

from lzero.cli.data.arguments import AsJson, Columns, Out, Sources, pairs, tell


def merge(
    sets: Sources,
    out: Out,
    rename: Annotated[
        bool,
        Option("--rename", help="Put the name of its set before an id that an earlier row has; else it is an error."),
    ] = False,
    column: Columns = None,
    json: AsJson = False,
) -> None:
    """Join sets and files into one set. Rows keep their order and their original splits.

    Example: lzero data merge train.jsonl raw/nq --out merged
    """
    from lzero.extras import need

    need("data", what="lzero data")
    from lzero.data.stages import run_stage
    from lzero.data.stages.merge import Merge

    manifest = run_stage(Merge(rename=rename), sets, out, columns=pairs("--column", column))
    tell(manifest, out, json=json)
