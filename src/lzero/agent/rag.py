"""The agent "rag" (retrieval-augmented generation): one search with the question, then one reply."""

import re
from collections.abc import Sequence
from functools import partial

from lzero.agent.broker import Broker
from lzero.agent.episode import asked
from lzero.agent.frame import quoted
from lzero.agent.one_reply import INSTRUCTION, OneReply
from lzero.agent.setting import Setting, Ticket, episode_of
from lzero.errors import ConfigError, ToolError
from lzero.marking import marked
from lzero.protocols import Scene, Tool
from lzero.types import Episode, Failure, Task

SEARCH = "search"
"""The tool that retrieves, unless an option names another."""
_HEADING = re.compile(r"^(?:[^\S\n]|▁)*+(?:P(?=assages[\s▁]*+:)|Q(?=uestion[\s▁]*+:))", re.IGNORECASE | re.MULTILINE)
"""Headings of the prompt (`OneReply`) in what was retrieved: a passage could end the passages, and ask a question of its own."""


class RagAgent:
    """Retrieves once, with the question as query, and asks the model once. Implements `Agent` and `ChecksTools`."""

    def __init__(self, setting: Setting, *, instruction: str = INSTRUCTION, tool: str = SEARCH) -> None:
        """`instruction`: the line after the question; "" for none. `tool`: name of the tool that retrieves; its first parameter is the
        query."""
        self._setting = setting
        self._instruction = instruction
        self._tool = tool

    @staticmethod
    def check_tools(tools: Sequence[Tool], *, tool: str = SEARCH, **others: object) -> None:
        """Raise ConfigError if the tool that retrieves is not among these."""
        if problem := _missing(tool, tools):
            raise ConfigError(f'agent.use = "rag" {problem}')

    async def __call__(self, task: Task, scene: Scene, ticket: Ticket) -> Episode:
        tools = (*scene.tools, *self._setting.tools)
        if problem := _missing(self._tool, tools):
            failure = Failure(kind="environment", what=f'agent.use = "rag" {problem}', where="retrieving")
            return episode_of(task, ticket, self._setting.agent, failure=failure)
        (tool,) = (each for each in tools if each.name == self._tool)
        question = asked(task, scene.observation)
        reply = OneReply(task, ticket, self._setting, question=question, instruction=self._instruction)
        return await reply.settle(tools=tools, retrieve=partial(_retrieve, tool, task.question))


async def _retrieve(tool: Tool, query: str, broker: Broker) -> str:
    """Return what the tool finds, as the model reads it. Raises ToolError for a failure of the tool's own."""
    try:
        found = await broker.on_call(tool.name, {tool.parameters[0]: query})
    except ToolError as error:
        if error.fault == "tool":
            raise
        found = f"({tool.name} refused the question: {error})"
    return marked(quoted(found if isinstance(found, str) else str(found)), _HEADING)


def _missing(name: str, tools: Sequence[Tool]) -> str:
    """Return why the tool of this name cannot retrieve; "" if it can."""
    found = next((tool for tool in tools if tool.name == name), None)
    if found is not None and found.parameters:
        return ""
    there = ", ".join(tool.name for tool in tools)
    has = (
        f"the tool {name!r} takes no query"
        if found
        else f"there is no tool {name!r} among those of the task ({there or 'none'})"
    )
    return (
        f"has nothing to retrieve from: {has}. Use tasks with passages, name a corpus (environment.options.corpus), or name another tool "
        "of the episode (agent.options.tool)"
    )
