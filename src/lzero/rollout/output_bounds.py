"""Bound the outputs that an episode keeps in memory until its update is written. An update may hold hundreds of episodes."""

import msgspec

from lzero.agent.outputs import plain_text
from lzero.types import Display, Episode, Execution, Output, Result

RICH_CHARS = 4_000_000
"""The most characters of images, tables and JSON in the outputs of one episode (images in Base64): about ten figures."""


def bounded(episode: Episode) -> Episode:
    """Return the episode with at most RICH_CHARS characters of images, tables and JSON. Further values keep only the text that the model
    reads."""
    room = RICH_CHARS

    def keep(output: Output) -> Output:
        nonlocal room
        if not isinstance(output, Result | Display):
            return output
        rich = sum(len(text) for mime, text in output.data.items() if mime != "text/plain")
        if rich > room:
            return msgspec.structs.replace(output, data={"text/plain": plain_text(output)})
        room -= rich
        return output

    def of(execution: Execution | None) -> Execution | None:
        if execution is None:
            return None
        return msgspec.structs.replace(execution, outputs=tuple(map(keep, execution.outputs)))

    steps = tuple(msgspec.structs.replace(step, execution=of(step.execution)) for step in episode.steps)
    return msgspec.structs.replace(episode, steps=steps)
