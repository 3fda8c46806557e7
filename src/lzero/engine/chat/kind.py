"""The engine "chat": a model behind an OpenAI-compatible endpoint. It replies in words, so it cannot be trained."""

import asyncio
from collections.abc import Iterator

from lzero.closing import closed_on_error
from lzero.config import ChatEngineConfig, Config
from lzero.engine.chat.engine import OpenAIChat
from lzero.engine.kinds import Finding, OpenedEngine
from lzero.errors import ConfigError
from lzero.tools.keys import find_key
from lzero.types import Task

TRAINS = False
CONTEXT_TOKENS = 32_000
"""Tokens that most models behind endpoints take."""


def model_name(config: Config) -> str:
    return _settings(config).model


def context_tokens(config: Config) -> int:
    return CONTEXT_TOKENS


def open_tokenizer(config: Config) -> None:
    """Return None, because the endpoint has the tokens. Raises ConfigError for keys that act on local tokens."""
    if config.agent.template == "raw":
        raise ConfigError('agent.template = "raw" has no effect with an endpoint, whose server formats turns itself')
    if loading := config.model.changed():
        raise ConfigError(f"model.{loading[0]} has no effect with an endpoint: it applies to a local model")


async def open_engine(config: Config, tokenizer: None) -> OpenedEngine:
    """Return the engine. Raises EngineError if the endpoint does not answer, or does not serve the model."""
    settings = _settings(config)
    engine = open_chat(settings.model, url=settings.url, key=settings.key, env_file=config.tools.env_file)
    async with closed_on_error(engine.close):
        await engine.check()
    return OpenedEngine(engine=engine, tokenizer=None, concurrency=config.rollout.concurrency)


def open_chat(model: str, *, url: str, key: str, env_file: str) -> OpenAIChat:
    """Return the model at an endpoint, without a request to it. Raises ConfigError.

    `key`: the variable that holds the endpoint's key; "" if it needs none.
    """
    found = find_key(key, env_file=env_file) if key else None
    return OpenAIChat(model, base_url=url, key=found, key_variable=key)


def check(config: Config) -> Iterator[Finding]:
    """Ask the endpoint whether it serves the model."""

    async def ask() -> None:
        opened = await open_engine(config, None)
        await opened.engine.close()

    asyncio.run(ask())
    yield Finding("engine", f"the endpoint serves {_settings(config).model}: for lzero eval and run")


def _settings(config: Config) -> ChatEngineConfig:
    assert isinstance(config.engine, ChatEngineConfig)
    return config.engine


def notes(config: Config) -> list[str]:
    return []


def complaint(config: Config, task: Task) -> str:
    return ""
