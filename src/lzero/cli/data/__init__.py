"""`lzero data`: prepare sets of tasks. One file per command; each reads sets or files, and writes a new set."""

import typer

from lzero.cli.data.merge import merge

data = typer.Typer(
    name="data", help="Prepare sets of tasks: each command reads sets, and writes a new one.", no_args_is_help=True
)
data.command(name="merge")(merge)
