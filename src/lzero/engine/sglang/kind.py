"""The engine "sglang": sample from `model.path` in SGLang servers that already run. Not verified; see the package."""

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lzero.closing import closed_on_error
from lzero.config import Config, SGLangEngineConfig
from lzero.engine.kinds import Finding, OpenedEngine
from lzero.engine.kinds import context_tokens as context_tokens
from lzero.engine.kinds import model_name as model_name
from lzero.engine.kinds import open_tokenizer as open_tokenizer
from lzero.engine.sglang.server import SGLangServer
from lzero.engine.vllm.engine import Delivery, VLLMEngine
from lzero.engine.vllm.kind import stop_ids, temperature_problem, vocab_size
from lzero.engine.vllm.supervisor import joined
from lzero.errors import ConfigError, EngineError
from lzero.tools.keys import need_key
from lzero.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TRAINS = True


async def open_engine(config: Config, tokenizer: "PreTrainedTokenizerFast") -> OpenedEngine:
    """Join the servers of engine.urls. Raises EngineError if one does not answer, or would sample from another policy."""
    if problem := temperature_problem(config, "SGLang"):
        raise ConfigError(problem)
    stack = AsyncExitStack()
    async with closed_on_error(stack.aclose):
        servers = _join(config, stack)
        found: dict[str, Any] = {server.name: await server.settings() for server in servers}
        for server in servers:
            check_server(server.name, found[server.name], config)
        fleet = joined(servers)
        for each in fleet.members:
            most = found[each.server.name].get("max_running_requests")
            if isinstance(most, int) and most > 0:
                each.places.limit(most)
        engine = VLLMEngine(
            fleet,
            tokenizer,
            stop_ids=stop_ids(config, tokenizer),
            vocab_size=vocab_size(config),
            max_tokens=config.agent.max_tokens,
            delivery=Delivery(
                shared_directory=Path(_settings(config).shared_directory or tempfile.gettempdir()),
                step_s=_settings(config).sync_s,
            ),
            on_close=stack.aclose,
        )
        async with closed_on_error(engine.close):
            await engine.claim()
    return OpenedEngine(engine=engine, tokenizer=tokenizer, concurrency=config.rollout.concurrency, facts=found)


def check(config: Config) -> Iterator[Finding]:
    """Check that the servers answer and have the right settings."""
    if problem := temperature_problem(config, "SGLang"):
        yield Finding("rollout.temperature", f"{config.rollout.temperature:g}", [problem])
    yield Finding("engine.urls", ", ".join(_settings(config).urls), asyncio.run(_problems(config)))


def notes(config: Config) -> list[str]:
    if config.run.deterministic:
        return [
            "run.deterministic = true does not reach SGLang: start its servers with --enable-deterministic-inference"
        ]
    return []


def complaint(config: Config, task: Task) -> str:
    return temperature_problem(config, "SGLang")


def check_server(name: str, found: Mapping[str, Any], config: Config) -> None:
    """Raise EngineError for a server that would not sample exactly from the policy."""
    problems = []
    if found.get("dtype") != config.model.dtype:
        problems.append(f"its dtype is {found.get('dtype')!r:.100}, not {config.model.dtype!r}")
    longest = found.get("context_length")
    if longest is not None and not (isinstance(longest, int) and longest >= config.agent.max_tokens):
        problems.append(
            f"its context_length is {longest!r:.100}, less than agent.max_tokens = {config.agent.max_tokens}"
        )
    if problems:
        raise EngineError(f"{name} cannot be used: {'; '.join(problems)}. docs/training.md has its command")


def _join(config: Config, stack: AsyncExitStack) -> list[SGLangServer]:
    """Return the servers of engine.urls, without a request to them. Raises ConfigError if the key is missing."""
    settings = _settings(config)
    key = ""
    if settings.key:
        key = need_key(
            settings.key, purpose="the SGLang servers of engine.urls", env_file=config.tools.env_file
        ).reveal()
    servers = [SGLangServer(f"the SGLang server at {url}", url=url, key=key) for url in settings.urls]
    for server in servers:
        stack.push_async_callback(server.close)
    return servers


async def _problems(config: Config) -> list[str]:
    async with AsyncExitStack() as stack:
        try:
            for server in _join(config, stack):
                check_server(server.name, await server.settings(), config)
        except EngineError as error:
            return [str(error)]
    return []


def _settings(config: Config) -> SGLangEngineConfig:
    assert isinstance(config.engine, SGLangEngineConfig)
    return config.engine
