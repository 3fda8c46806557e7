"""Kinds of engines. `engine.kind` names one: the module `lzero.engine.<kind>.kind`, which has the functions of `EngineKind`.

A new kind is a new folder, and a section of its own keys in the configuration.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from lzero.config import Config
from lzero.protocols import ChatEngine, Engine
from lzero.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An engine, ready to answer."""

    engine: Engine | ChatEngine
    tokenizer: "PreTrainedTokenizerFast | None"
    """None for an engine that answers in words."""
    concurrency: int
    """Number of episodes that it has room for at once, at most `rollout.concurrency`."""


@dataclass(frozen=True)
class Finding:
    """What a check looked at, and what is wrong with it."""

    name: str
    looked_at: str
    problems: Sequence[str] = ()


class EngineKind(Protocol):
    """What the module of a kind offers."""

    TRAINS: bool
    """Whether it samples tokens with their log-probabilities, and takes new weights."""

    def model_name(self, config: Config) -> str:
        """Return what records call the model."""

    def context_tokens(self, config: Config) -> int | None:
        """Return the tokens that an episode may fill if the configuration sets no budget; None: what the model in model.path takes."""

    def open_tokenizer(self, config: Config) -> "PreTrainedTokenizerFast | None":
        """Return the tokenizer of the tokens that this engine samples; None if it answers in words. Raises ModelError, ConfigError."""

    async def open_engine(self, config: Config, tokenizer: "PreTrainedTokenizerFast | None") -> Opened:
        """Return the engine. Raises ConfigError, ModelError, EngineError."""

    def check(self, config: Config) -> Iterator[Finding]:
        """Look at what `open_engine` needs, for `lzero check`. Raises as it does."""

    def complaint(self, config: Config, task: Task) -> str:
        """Return why this engine cannot work on such a task; "" if it can."""


def open_endpoint(model: str, *, url: str, key: str, env_file: str) -> ChatEngine:
    """Return a model at an endpoint, for whatever asks one beside the run's own engine. Raises ConfigError as its kind does."""
    from lzero.engine.chat.kind import open_chat

    return open_chat(model, url=url, key=key, env_file=env_file)


def kind_of(config: Config) -> EngineKind:
    """Return the kind that `engine.kind` names."""
    return cast(EngineKind, import_module(f"lzero.engine.{config.engine.kind}.kind"))
