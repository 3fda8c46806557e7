"""All commands under one name."""

import typer

from lzero.cli.check import check
from lzero.cli.eval import evaluate
from lzero.cli.export import export
from lzero.cli.play import play
from lzero.cli.pool import pool
from lzero.cli.replay import replay
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


@app.callback()
def _root() -> None:
    pass


app.command(name="check")(check)
app.command(name="eval")(evaluate)
app.command(name="export")(export)
app.command(name="play")(play)
app.command(name="replay")(replay)
app.command(name="run")(run)
app.command(name="sft")(sft)
app.command(name="show")(show)
app.command(name="train")(train)
app.add_typer(pool)
