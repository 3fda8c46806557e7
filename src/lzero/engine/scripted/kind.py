"""The engine "scripted": a function of the transcript instead of a model. Experts record demonstrations; weak policies are baselines."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.config import Config, ScriptedEngineConfig
from lzero.data.world import POLICIES, vocabulary
from lzero.engine.kinds import Finding, OpenedEngine
from lzero.engine.scripted.engine import ScriptedEngine
from lzero.errors import ConfigError
from lzero.plugins import load_object, nearest_name
from lzero.protocols import Policy
from lzero.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SCRIPTED = "scripted:"
"""Prefix of the policy's name in the name of the model."""
WORLD = "world"
"""`Task.source` of the built-in world's tasks."""

WITHOUT_CELLS = ("direct", "rag")
"""Agents that run no code."""

TRAINS = False
CONTEXT_BYTES = 32_000


def model_name(config: Config) -> str:
    return f"{SCRIPTED}{_name(config)}"


def context_tokens(config: Config) -> int | None:
    """Return the default tokens of an episode. For your own policy a token is a byte, unless `engine.tokenizer` names a model's."""
    return CONTEXT_BYTES if ":" in _name(config) else None


def open_tokenizer(config: Config) -> "PreTrainedTokenizerFast":
    """Return the tokenizer of `engine.tokenizer`, else that of the world's words; for your own policy, one with bytes as tokens."""
    from lzero.models import build_tokenizer, load_tokenizer

    assert isinstance(config.engine, ScriptedEngineConfig)
    if config.engine.tokenizer:
        return load_tokenizer(Path(config.engine.tokenizer).expanduser())
    return build_tokenizer(() if ":" in _name(config) else vocabulary())


async def open_engine(config: Config, tokenizer: "PreTrainedTokenizerFast") -> OpenedEngine:
    if loading := config.model.changed():
        raise ConfigError(f"model.{loading[0]} has no effect with a scripted policy: remove it")
    policy = find_policy(_name(config), key="engine.policy")
    return OpenedEngine(
        engine=ScriptedEngine(policy, tokenizer, name=_name(config)),
        tokenizer=tokenizer,
        concurrency=config.rollout.concurrency,
    )


def check(config: Config) -> Iterator[Finding]:
    find_policy(_name(config), key="engine.policy")
    yield Finding(f"engine.policy: {_name(config)}", "a scripted policy: for lzero eval and play")


def notes(config: Config) -> list[str]:
    return []


def complaint(config: Config, task: Task) -> str:
    if ":" not in _name(config) and config.agent.use in WITHOUT_CELLS:
        return f'the policy {_name(config)!r} writes cells, which agent.use = "{config.agent.use}" does not run: leave it at "nb"'
    return not_understood(_name(config), task)


def find_policy(name: str, *, key: str) -> Policy:
    """Return the policy of the world, or the function at an import path, that `key` names. Raises ConfigError."""
    if ":" not in name and name not in POLICIES:
        raise ConfigError(f"{key} = {name!r}: {nearest_name(name, POLICIES, kind='policy')}")
    policy: Policy = load_object(name, key=key) if ":" in name else POLICIES[name]
    if not callable(policy):
        raise ConfigError(f"{key} = {name!r} is {policy!r:.80}: name a function of (transcript, seed)")
    return policy


def not_understood(name: str, task: Task) -> str:
    """Return a sentence if a policy of the world cannot read a task, else ""."""
    if ":" in name or task.source == WORLD:
        return ""
    return f"the policy {name!r} understands only the built-in world, not the tasks of {task.source!r}"


def _name(config: Config) -> str:
    assert isinstance(config.engine, ScriptedEngineConfig)
    return config.engine.policy
