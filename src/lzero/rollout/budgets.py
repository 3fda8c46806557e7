"""Fit token budgets to the model, if the configuration sets none.

The defaults of agent.max_tokens and agent.response_tokens are the nano model's. Another model gets the budgets of its training (a
checkpoint holds them), or else its context length, up to MAX_TOKENS, because the key-value cache takes memory for all of it.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lzero.config import NANO, Config
from lzero.engine.kinds import kind_of
from lzero.errors import ModelError
from lzero.model_files import MAX_TOKENIZER_BYTES, read_json
from lzero.models import ASSETS

MAX_TOKENS = 16_384
MAX_RESPONSE_TOKENS = 4_096
_SHARE = 4
"""Number of replies that fit into a context."""
_SMALLEST_WINDOW = 1_024
"""A shorter sliding window has no room for a prompt, so it sets no budget; the engine then rejects the model."""
_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
_CHECKPOINT = "trainer.json"


def fit_budgets(config: Config) -> Config:
    """Return the configuration with token budgets for its model. Budgets in the configuration are kept.

    If the model cannot be read, the configuration is returned unchanged, and loading the model raises the error.
    """
    directory = Path(config.model.path).expanduser()
    given = config.agent.model_fields_set
    context = kind_of(config).context_tokens(config)
    if context is not None:
        tokens = config.agent.max_tokens if "max_tokens" in given else context
        update = {key: value for key, value in _shared_out(tokens).items() if key not in given}
        return config.model_copy(update={"agent": config.agent.model_copy(update=update)})
    if (
        {"max_tokens", "response_tokens"} <= given
        or config.model.path == NANO
        or not (directory / "config.json").is_file()
    ):
        return config
    settings = _read(directory / "config.json")
    trained = _read(directory / _CHECKPOINT).get("config")
    budgets = trained.get("agent") if isinstance(trained, dict) else None
    if not isinstance(budgets, dict):
        if _speaks_as_nano(directory, settings):
            return config
        tokens = config.agent.max_tokens if "max_tokens" in given else _context(settings)
        budgets = _shared_out(tokens)
    wanted = {key: _whole(budgets.get(key)) for key in ("max_tokens", "response_tokens") if key not in given}
    window = _context(settings, at_most=sys.maxsize)
    keys = {key: min(tokens, window) for key, tokens in wanted.items() if tokens > 0}
    return config.model_copy(update={"agent": config.agent.model_copy(update=keys)})


def _shared_out(tokens: int) -> dict[str, int]:
    return {"max_tokens": tokens, "response_tokens": max(1, min(MAX_RESPONSE_TOKENS, tokens // _SHARE))}


def _context(settings: Mapping[str, Any], *, at_most: int = MAX_TOKENS) -> int:
    """Return the context length, in tokens, that a model's config.json allows, at most `at_most`."""
    text = settings.get("text_config")
    settings = {**settings, **text} if isinstance(text, dict) else settings
    limits = [_whole(settings.get(key)) for key in _CONTEXT]
    scaling = settings.get("rope_parameters") or settings.get("rope_scaling")
    scaling = scaling if isinstance(scaling, dict) else {}
    if scaling.get("rope_type", scaling.get("type")) in ("longrope", "su", "dynamic"):
        original = settings.get("original_max_position_embeddings", scaling.get("original_max_position_embeddings"))
        limits.append(_whole(original))
    if settings.get("use_sliding_window") is not False:
        windows = (_whole(settings.get(key)) for key in ("sliding_window", "attention_chunk_size"))
        limits += [window for window in windows if window >= _SMALLEST_WINDOW]
    return min((limit for limit in (*limits, at_most) if limit > 0), default=at_most)


def _speaks_as_nano(directory: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a model has the vocabulary of the nano model: it was trained from it, or for the same world."""
    nano = ASSETS / NANO
    if settings.get("vocab_size") != _read(nano / "config.json").get("vocab_size"):
        return False
    own, others = (_read(path / "tokenizer.json").get("model") for path in (directory, nano))
    return isinstance(own, dict) and isinstance(others, dict) and own.get("vocab") == others.get("vocab")


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _read(file: Path) -> dict[str, Any]:
    """Return a file's JSON object; {} if it has none."""
    try:
        return read_json(file.parent, file.name, needed_for="a model directory", max_bytes=MAX_TOKENIZER_BYTES)
    except ModelError:
        return {}
