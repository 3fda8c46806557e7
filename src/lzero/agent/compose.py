"""The one place where an agent is composed from a configuration: for training, evaluation, one question, and `NBAgent`.

    config ──▶ engine, tokenizer ──▶ Model ─┐
           ──▶ sandbox (pool) ──────────────┼─▶ Setting ──▶ agent ─┐
           ──▶ tools ───────────────────────┘                      ├─▶ EpisodePlayer
           ──▶ environment ────────────────────────────────────────┘

torch and transformers are imported when an engine that needs them is opened, not with this module.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from lzero.agent.agents import check_agent, check_tools, make_agent
from lzero.agent.conversation import ChatModel, Model, TokenModel
from lzero.agent.file_cache import FileCache
from lzero.agent.playing import EpisodePlayer
from lzero.agent.prompt import system_prompt
from lzero.agent.recorded import OWN
from lzero.agent.renderer import open_renderer
from lzero.agent.sandboxes import sandboxes
from lzero.agent.scenes import Scenes
from lzero.agent.setting import LIBRARIES, Setting
from lzero.config import Config
from lzero.data.attachments import FileLimits
from lzero.engine.kinds import OpenedEngine, kind_of
from lzero.environments import open_environment
from lzero.protocols import ChatEngine, Engine, ReplPool, Tool
from lzero.repl import environment, open_pool
from lzero.tools.catalog import check_tool, open_tool
from lzero.types import Json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MakeEngine = Callable[["PreTrainedTokenizerFast | None"], OpenedEngine]


@dataclass(frozen=True, kw_only=True)
class OpenedAgent:
    """An agent that is ready for tasks, with its engine and sandbox."""

    play: EpisodePlayer
    setting: Setting
    engine: OpenedEngine
    sandbox: Mapping[str, Json]
    """The isolation of the REPLs, for the record of the run."""


def open_tools(named: Sequence[str | Tool], config: Config, *, key: str) -> tuple[Tool, ...]:
    """Return the tools that `key` names: objects, names in the catalog, or import paths.

    Raises ConfigError for an object that is not a tool, for a tool that lacks something, and for a name that is built in or used twice.
    """
    kernel_python = partial(environment.python_of_sessions, config.repl, placed=bool(config.launch.ray))
    opened: dict[str, Tool] = {}
    for each in named:
        tool = open_tool(each, config, key=key, kernel_python=kernel_python) if isinstance(each, str) else each
        check_tool(tool, taken=(*OWN, *opened), said=f"{key}: {each!r}")
        opened[tool.name] = tool
    return tuple(opened.values())


def open_scenes(config: Config, *, tools: tuple[Tool, ...] | None = None) -> Scenes:
    """Open the environment and the tools of the configuration, or these `tools`. Check the agent's options and the prompt's template.

    It may take long: an environment may index a corpus. Raises ConfigError or DataError for what cannot be used.
    """
    check_agent(config.agent)
    opened = open_tools(config.agent.tools, config, key="agent.tools") if tools is None else tools
    system_prompt(config.agent, opened)
    return Scenes(
        environment=open_environment(config.environment),
        timeout_s=config.environment.timeout_s,
        tools=opened,
        check=partial(check_tools, config.agent),
    )


@asynccontextmanager
async def opened_scenes(config: Config, *, tools: tuple[Tool, ...] | None = None) -> AsyncIterator[Scenes]:
    """Yield what `open_scenes` returns, opened without blocking the event loop; close the environment after the block."""
    scenes = await asyncio.to_thread(open_scenes, config, tools=tools)
    try:
        yield scenes
    finally:
        await scenes.close()


@asynccontextmanager
async def open_agent(
    config: Config,
    scenes: Scenes,
    *,
    deadline_s: float,
    request_timeout_s: float,
    session_s: float,
    make_engine: MakeEngine | None = None,
    pool: ReplPool | None = None,
) -> AsyncIterator[OpenedAgent]:
    """Yield the agent, and close it after the block; `scenes` stay open.

    `deadline_s`: seconds of an episode in addition to the agent's. `session_s`: seconds that sessions on servers must live. `make_engine`
    makes another engine than the configuration's; `pool` is another, started sandbox; both stay open. Raises ConfigError, ModelError,
    EngineError or SandboxError before anything runs.
    """
    async with AsyncExitStack() as stack:
        # First, so that errors in [repl] are raised before a model is loaded.
        own_pool = None
        if pool is None:
            own_pool = open_pool(await stack.enter_async_context(sandboxes(config)), session_s=session_s)
        kind = kind_of(config)
        tokenizer = kind.open_tokenizer(config)
        renderer = None if tokenizer is None else open_renderer(config.agent, tokenizer)
        if make_engine is not None:
            engine = make_engine(tokenizer)
        else:
            engine = await kind.open_engine(config, tokenizer)
            stack.push_async_callback(engine.engine.close)
        if renderer is None and engine.tokenizer is not None:  # a person or a script plays, with another engine
            renderer = open_renderer(config.agent, engine.tokenizer)
        if own_pool is not None:
            stack.push_async_callback(own_pool.close)
            await own_pool.start()
        chosen = pool or own_pool
        assert chosen is not None
        model: Model
        if renderer is None:
            model = ChatModel(cast(ChatEngine, engine.engine), request_timeout_s, config.agent.past_thoughts)
        else:
            model = TokenModel(cast(Engine, engine.engine), renderer, request_timeout_s)
        setting = Setting(
            agent=config.agent,
            model=model,
            pool=chosen,
            deadline_s=deadline_s,
            reply_s=request_timeout_s,
            libraries=LIBRARIES + config.repl.packages,
            files=FileCache(max_file_bytes=FileLimits.of(config.repl).file_bytes),
            tools=scenes.tools,
            bugs=scenes.bugs,
        )
        play = EpisodePlayer(scenes=scenes, agent=make_agent(setting), config=config.agent)
        yield OpenedAgent(play=play, setting=setting, engine=engine, sandbox=chosen.facts())
