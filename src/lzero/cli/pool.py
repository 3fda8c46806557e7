"""`lzero pool`: commands for the sandboxes of this machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from lzero.cli.arguments import Arguments, print_json, read_config
from lzero.cli.pool_serve import serve

if TYPE_CHECKING:
    from lzero.repl.tiers import Report

pool = typer.Typer(
    name="pool", help="Check the sandboxes of this machine, or serve them to others.", no_args_is_help=True
)
pool.command(name="serve")(serve)


@pool.command()
def probe(
    arguments: Arguments = None,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of the table.")] = False,
) -> None:
    """Check which isolation features this machine supports, by using each once; print a fix for each that is missing.

    Example: lzero pool probe repl.cgroups=on

    Exits with code 1 if this machine does not support the configured tier (repl.tier).
    """
    import asyncio
    import logging

    from lzero.repl import tiers
    from lzero.repl.keys import check_local

    config = read_config(arguments).repl
    check_local(config)
    log = logging.getLogger("lzero.repl.cgroups")
    log.disabled = True  # the report contains the warnings of a run
    try:
        report = asyncio.run(tiers.probe(config))
    finally:
        log.disabled = False
    if json:
        print_json(report)
    else:
        _show(report)
    if report.problem:
        raise typer.Exit(1)


def _show(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("part", "here", Column("", overflow="fold"), box=None, pad_edge=False)
    for finding in report.findings:
        table.add_row(finding.part, "yes" if finding.here else "no", finding.detail)
    console = Console(markup=False, highlight=False)
    console.print(table)
    for mend in dict.fromkeys(finding.mend for finding in report.findings if not finding.here and finding.mend):
        console.print(f"→ {mend}", soft_wrap=True)
    if report.problem:
        console.print(f"this machine does not support repl.tier = {report.tier!r}: {report.problem}", soft_wrap=True)
    else:
        console.print(f"REPLs run in tier {report.tier!r}", soft_wrap=True)
