"""Reconstruct from a saved episode the session of its code: its tools, and whether it had a notepad."""

import keyword

import msgspec

from lzero.agent.broker import SubmitFinalAnswer
from lzero.agent.notepad import NotepadTool
from lzero.protocols import ToolStub
from lzero.store import SavedEpisode
from lzero.types import Episode, Notepad

OWN = (SubmitFinalAnswer.name, NotepadTool.name)
"""Names of the agent's built-in tools."""


def tools_of(saved: SavedEpisode) -> tuple[ToolStub, ...]:
    """Return the tools beside the agent's built-in ones.

    If none are saved, as in a training run, return those that were called, with the parameters that they were given.
    """
    named = {tool.name: tool for tool in saved.tools} or _called(saved.episode)
    return tuple(
        msgspec.structs.replace(tool, parameters=tuple(filter(_is_name, tool.parameters)))
        for tool in named.values()
        if _is_name(tool.name) and tool.name not in OWN
    )


def _called(episode: Episode) -> dict[str, ToolStub]:
    """Return the tools that were called, with their parameters. Calls of a name that is not a tool are left out."""
    parameters: dict[str, dict[str, None]] = {}
    for step in episode.steps:
        for call in step.tool_calls:
            if call.error != f"there is no tool {call.name!r}":
                parameters.setdefault(call.name, {}).update(dict.fromkeys(call.arguments))
    return {name: ToolStub(name=name, parameters=tuple(given)) for name, given in parameters.items()}


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def has_notepad(saved: SavedEpisode) -> bool:
    """Return whether the agent had a notepad: by its configuration or, if that is not saved, by its steps."""
    agent = saved.config.get("agent")
    said = agent.get("notepad") if isinstance(agent, dict) else None
    return bool(said) or any(step.notepad != Notepad() for step in saved.episode.steps)
