"""`lzero export`: write a checkpoint as a model directory that other programs load.

lzero export runs/world-20260131-174501 my-model
lzero export runs/world-20260131-174501 my-model --checkpoint best
lzero export runs/world-20260131-174501 my-adapter --adapter
"""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a training run.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty directory for the model.")],
    checkpoint: Annotated[
        str,
        typer.Option(
            help='Name of a checkpoint, as "update-000010", or "best" for the best held-out score; default: the newest.'
        ),
    ] = "",
    adapter: Annotated[
        bool,
        typer.Option("--adapter", help="Only the LoRA adapter, in PEFT's format; default: base and adapter merged."),
    ] = False,
) -> None:
    """Write a trained model as a Hugging Face directory, for transformers, vLLM, SGLang.

    Example: lzero export runs/world-20260131-174501 my-model --checkpoint best
    """
    from lzero.train.export import export as export_checkpoint

    found = export_checkpoint(run, directory, name=checkpoint, adapter=adapter)
    print(f"exported {found} to {directory}")
