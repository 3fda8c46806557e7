"""`lzero play`: solve one task by hand."""

import asyncio
from typing import Annotated

import typer

from lzero.cli.arguments import Arguments, read_config


def play(
    arguments: Arguments = None,
    index: Annotated[int, typer.Option("--index", min=0, help="Number of the held-out task, from 0.")] = 0,
    policy: Annotated[
        str, typer.Option("--policy", help='Scripted policy that plays instead of you, for example "expert".')
    ] = "",
) -> None:
    """Play one task by hand: see the prompt as the model sees it, type code, read its output, submit an answer.

    Example: lzero play --index 2, or lzero play --policy expert tasks.hops=[3]
    """
    config = read_config(arguments, policy=policy)
    from lzero.cli.stage import GaveUp, play_task

    try:
        went_well = asyncio.run(play_task(config, index=index, policy=policy))
    except GaveUp:
        print("\nEnd of input: you gave up.")
        return
    if not went_well:
        raise typer.Exit(1)
