"""All commands under one name."""

from typing import Annotated

import typer

from lzero import __version__
from lzero.cli.check import check
from lzero.cli.compare import compare
from lzero.cli.config import config
from lzero.cli.data import data
from lzero.cli.eval import evaluate
from lzero.cli.export import export
from lzero.cli.model import model
from lzero.cli.plan import plan
from lzero.cli.play import play
from lzero.cli.pool import pool
from lzero.cli.replay import replay
from lzero.cli.report import report
from lzero.cli.rescore import rescore
from lzero.cli.run import run
from lzero.cli.sft import sft
from lzero.cli.show import show
from lzero.cli.train import train

app = typer.Typer(
    name="lzero",
    help="Train language models, by reinforcement learning with verifiable rewards, to act as general agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"lzero {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    pass


app.command(name="check")(check)
app.command(name="compare")(compare)
app.command(name="config")(config)
app.command(name="eval")(evaluate)
app.command(name="export")(export)
app.command(name="model")(model)
app.command(name="plan")(plan)
app.command(name="play")(play)
app.command(name="replay")(replay)
app.command(name="report")(report)
app.command(name="rescore")(rescore)
app.command(name="run")(run)
app.command(name="sft")(sft)
app.command(name="show")(show)
app.command(name="train")(train)
app.add_typer(data)
app.add_typer(pool)
