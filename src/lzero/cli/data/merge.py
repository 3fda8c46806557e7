"""`lzero data merge`: several sets or files of tasks as one set.

lzero data merge train.jsonl raw/nq --out merged
"""

from typing import Annotated

from typer import Option

from lzero.cli.data.arguments import AsJson, Columns, Out, Sources, write_set


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
    from lzero.data.stages.merge import Merge

    write_set(Merge(rename=rename), sets, out, column=column, json=json)
