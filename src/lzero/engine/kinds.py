"""Kinds of engines. `engine.kind` names one: the module `lzero.engine.<kind>.kind`, which has the functions of `EngineKind`.

A new kind is a new folder, and a section with its own keys in the configuration.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from lzero.config import Config
from lzero.protocols import ChatEngine, Engine
from lzero.types import Json, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class OpenedEngine:
    """An engine that is ready for requests."""

    engine: Engine | ChatEngine
    tokenizer: "PreTrainedTokenizerFast | None"
    """The tokenizer; None for an engine that replies in words."""
    concurrency: int
    """Number of concurrent episodes that it has room for, at most `rollout.concurrency`."""
    facts: Mapping[str, Json] = field(default_factory=dict)
    """Versions and settings of the programs that sample, for the record of a run."""
    logs: Mapping[str, Path] = field(default_factory=dict)
    """Name → the log of a program that lzero started. Closing the engine removes these files."""


@dataclass(frozen=True)
class Finding:
    """The subject of a check, and the problems that it found."""

    name: str
    looked_at: str
    problems: Sequence[str] = ()
    """A sentence for each problem: what is wrong, the value, the fix."""


class EngineKind(Protocol):
    """The functions of a kind's module."""

    TRAINS: bool
    """Whether it samples tokens with their log-probabilities, and takes new weights."""

    def model_name(self, config: Config) -> str:
        """Return the model's name for records."""

    def context_tokens(self, config: Config) -> int | None:
        """Return the default tokens of an episode, if the configuration sets no budget; None: the context of the model in model.path."""

    def open_tokenizer(self, config: Config) -> "PreTrainedTokenizerFast | None":
        """Return the tokenizer of the tokens that this engine samples; None if it answers in words. Raises ModelError, ConfigError."""

    async def open_engine(self, config: Config, tokenizer: "PreTrainedTokenizerFast | None") -> OpenedEngine:
        """Return the engine. Raises ConfigError, ModelError, EngineError."""

    def check(self, config: Config) -> Iterator[Finding]:
        """Check the requirements of `open_engine`, for `lzero check`. Raises as that does."""

    def notes(self, config: Config) -> list[str]:
        """Return a sentence for each setting that has no effect with this engine."""

    def complaint(self, config: Config, task: Task) -> str:
        """Return why this engine cannot work on such a task, or with these settings; "" if it can. Loads and starts nothing."""


def open_endpoint(model: str, *, url: str, key: str, env_file: str) -> ChatEngine:
    """Return a model at an endpoint, for other uses than the run's own engine. Raises ConfigError as its kind does."""
    from lzero.engine.chat.kind import open_chat

    return open_chat(model, url=url, key=key, env_file=env_file)


def kind_of(config: Config) -> EngineKind:
    """Return the kind that `engine.kind` names."""
    return cast(EngineKind, import_module(f"lzero.engine.{config.engine.kind}.kind"))


def model_name(config: Config) -> str:
    """Return model.path. Kinds that sample from this model share this function and the two below."""
    return config.model.path


def context_tokens(config: Config) -> None:
    """Return None: an episode may use the context of the model."""


def open_tokenizer(config: Config) -> "PreTrainedTokenizerFast":
    """Return the tokenizer of the model. Raises ModelError."""
    from lzero.models import load_tokenizer, resolve

    return load_tokenizer(resolve(config.model.path))
