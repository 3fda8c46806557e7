"""Functions that all kinds of engines share which sample from the model in `model.path` (`lzero.engine.kinds.EngineKind`)."""

from typing import TYPE_CHECKING

from lzero.config import Config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def model_name(config: Config) -> str:
    return config.model.path


def context_tokens(config: Config) -> None:
    """Return None: an episode may use the context of the model."""


def open_tokenizer(config: Config) -> "PreTrainedTokenizerFast":
    """Return the tokenizer of the model. Raises ModelError."""
    from lzero.models import load_tokenizer, resolve

    return load_tokenizer(resolve(config.model.path))
