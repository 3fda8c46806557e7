"""Find the agent that works on a task: a built-in one by its name, or your own by its import path (`agent.use`).

class MyAgent:
    def __init__(self, setting: Setting, *, retries: int = 2) -> None: ...      # options after the setting
    async def __call__(self, task: Task, scene: Scene, ticket: Ticket) -> Episode: ...

The class of an agent may have a static method `check_tools(tools, **options)`, which raises ConfigError for a scene that lacks what the
agent needs. It is called with the tools of the first task before work starts.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from lzero.agent.cutoff import Cutoff
from lzero.agent.setting import Setting, Ticket, episode_of
from lzero.agent.user_code import Raised, outcome_of, words
from lzero.config import AgentConfig
from lzero.errors import ConfigError, DataError
from lzero.plugins import find_plugin, make_plugin, valid_options
from lzero.protocols import Scene, Tool
from lzero.types import Episode, Failure, Task

Agent = Callable[[Task, Scene, Ticket], Awaitable[Episode]]
"""Makes one attempt at a task in its scene. If lzero breaks it, returns a failed episode. An exception fails the episode (kind agent)."""

GRACE_S = 60.0
"""Seconds, in addition to all budgets, after which a user's agent is cancelled."""
BUILT_IN = {
    "nb": "lzero.agent.episode:NotebookAgent",
    "direct": "lzero.agent.direct:DirectAgent",
    "rag": "lzero.agent.rag:RagAgent",
}
"""Name → import path."""


def check_agent(config: AgentConfig) -> None:
    """Raise ConfigError for an agent that cannot be found, or does not have the options."""
    valid_options(_factory(config), config.options, setting=_setting(config), key="agent.options", given=1)


def check_tools(config: AgentConfig, tools: Sequence[Tool]) -> None:
    """Raise ConfigError if the agent says that it cannot work with the tools of a scene."""
    check = getattr(_factory(config), "check_tools", None)
    if check is not None:
        check(tools, **config.options)


def make_agent(setting: Setting) -> Agent:
    """Return the agent that `agent.use` names. Raises ConfigError."""
    config = setting.agent
    made = make_plugin(_factory(config), setting, options=config.options, setting=_setting(config), key="agent.options")
    if not callable(made):
        raise ConfigError(
            f"{_setting(config)} makes a {type(made).__name__}, which cannot be called with a task, a scene and a ticket"
        )
    agent: Agent = made
    return agent if config.use in BUILT_IN else Guarded(agent, setting)


class Guarded:
    """A user's agent. Its exceptions, hangs and invalid results fail its episode. Implements `Agent`."""

    def __init__(self, agent: Agent, setting: Setting) -> None:
        self._agent = agent
        self._setting = setting
        self._name = setting.agent.use
        self._timeout_s = setting.deadline_s + setting.agent.work_s + GRACE_S

    async def __call__(self, task: Task, scene: Scene, ticket: Ticket) -> Episode:
        def failed(what: str) -> Episode:
            failure = Failure(kind="agent", what=f"{self._name} {what}", where="acting")
            return episode_of(task, ticket, self._setting.agent, failure=failure)

        who, cutoff, cut = f"the agent {self._name}", ticket.cutoff or Cutoff(sys.maxsize), asyncio.timeout(None)
        try:
            async with cut, asyncio.timeout(self._timeout_s):
                with cutoff.over(cut):
                    episode = await outcome_of(lambda: self._agent(task, scene, ticket), who, self._setting.bugs)
        except TimeoutError:
            if not cut.expired():
                return failed(f"did not return within {self._timeout_s:g} s")
            failure = Failure(kind="straggler", what="cut off: enough of its round's episodes were in", where="acting")
            return episode_of(task, ticket, self._setting.agent, failure=failure)
        if isinstance(episode, Raised):
            if isinstance(episode.error, ConfigError | DataError):
                raise episode.error
            self._setting.bugs.log(who, episode.error)
            return failed(f"raised {words(episode.error)}")
        if not isinstance(episode, Episode):
            return failed(f"returned a {type(episode).__name__}, not an Episode")
        if (episode.id, episode.task_id) != (ticket.id, task.id):
            return failed(f"returned the episode {episode.id} of task {episode.task_id}, not {ticket.id} of {task.id}")
        try:  # its fields are a user's, too: what no record holds would end the run
            return msgspec.json.decode(msgspec.json.encode(episode), type=Episode)
        except (msgspec.MsgspecError, UnicodeEncodeError, ValueError, TypeError) as error:
            return failed(f"returned an episode that cannot be recorded: {error}")


def _factory(config: AgentConfig) -> Callable[..., Any]:
    factory: Callable[..., Any] = find_plugin(config.use, BUILT_IN, key="agent.use")
    return factory


def _setting(config: AgentConfig) -> str:
    return f'agent.use = "{config.use}"'
