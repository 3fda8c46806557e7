"""`lzero data`: prepare sets of tasks, and report what is in them. One file per command."""

import typer

from lzero.cli.data.assess import assess
from lzero.cli.data.dedupe import dedupe
from lzero.cli.data.download import download
from lzero.cli.data.filter import filter_rows
from lzero.cli.data.leaks import leaks
from lzero.cli.data.merge import merge
from lzero.cli.data.retrieval import retrieval
from lzero.cli.data.show import show
from lzero.cli.data.stats import stats
from lzero.cli.data.stratify import stratify

data = typer.Typer(
    name="data",
    help="Prepare sets of tasks: download, combine, filter and rate them, and report what is in them.",
    no_args_is_help=True,
)
data.command(name="assess")(assess)
data.command(name="dedupe")(dedupe)
data.command(name="download")(download)
data.command(name="filter")(filter_rows)
data.command(name="leaks")(leaks)
data.command(name="merge")(merge)
data.command(name="retrieval")(retrieval)
data.command(name="show")(show)
data.command(name="stats")(stats)
data.command(name="stratify")(stratify)
