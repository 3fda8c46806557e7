"""The `lzero` command. One module per command; each loads what it needs when it runs, so that `--help` is quick."""

import os
import sys
from collections.abc import Sequence

import typer

from lzero.cli.check import check
from lzero.cli.eval import evaluate
from lzero.cli.play import play
from lzero.cli.sft import sft
from lzero.cli.train import train
from lzero.errors import LzeroError

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Our own errors print as one message and exit with 1, Ctrl-C with 130; anything else is a bug and keeps its traceback."""
    # Two cores serve the model's threads and the sandboxes: a thread of OpenMP that spins while it waits takes one from them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(args=list(arguments) if arguments is not None else None)
    except LzeroError as error:
        print(f"lzero: {error}", file=sys.stderr)
        sys.exit(1)


app.command(name="check")(check)
app.command(name="eval")(evaluate)
app.command(name="play")(play)
app.command(name="sft")(sft)
app.command(name="train")(train)
