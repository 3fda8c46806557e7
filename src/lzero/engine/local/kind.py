"""The engine "local": samples from `model.path` in this process."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lzero.config import Config
from lzero.engine.kinds import Finding, OpenedEngine
from lzero.engine.kinds import context_tokens as context_tokens
from lzero.engine.kinds import model_name as model_name
from lzero.engine.kinds import open_tokenizer as open_tokenizer
from lzero.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


TRAINS = True


async def open_engine(config: Config, tokenizer: "PreTrainedTokenizerFast") -> OpenedEngine:
    from lzero.engine.local.engine import LocalEngine

    model = _load(config)
    wanted, slots = config.rollout.concurrency, _slots(config, model)
    if slots < wanted:
        logger.warning(
            "keys and values of rollout.concurrency = %d episodes of agent.max_tokens = %d exceed half of the free memory: %d run at once",
            wanted,
            config.agent.max_tokens,
            slots,
        )
    engine = LocalEngine(
        model,
        tokenizer,
        max_tokens=config.agent.max_tokens,
        num_slots=slots,
        deterministic=config.run.deterministic,
    )
    return OpenedEngine(engine=engine, tokenizer=tokenizer, concurrency=slots)


def check(config: Config) -> Iterator[Finding]:
    """Check the weights, the vocabulary, memory for the run's budgets, and that the engine samples from the model's own policy."""
    from lzero.engine.local.cache import Forward
    from lzero.engine.local.probe import check_policy
    from lzero.models import select_device
    from lzero.threads import computing_alone

    model = _load(config)
    what = f"{model.num_parameters():,} parameters, {config.model.dtype} on {select_device(config.model.device)}"
    yield Finding(f"model.path: {config.model.path}", what, _vocabulary_problems(config, model))
    tokens, wanted, slots = config.agent.max_tokens, config.rollout.concurrency, _slots(config, model)
    with computing_alone():
        check_policy(Forward(model, num_slots=slots, max_tokens=tokens))
    fewer = f"; memory for rollout.concurrency = {wanted:,} is missing" if slots < wanted else ""
    yield Finding("local engine", f"{slots:,} at once of episodes of {tokens:,} tokens{fewer}")


def notes(config: Config) -> list[str]:
    return []


def complaint(config: Config, task: Task) -> str:
    return ""


def _load(config: Config) -> "PreTrainedModel":
    from lzero.models import load_model, resolve, select_device

    device = select_device(config.model.device)
    return load_model(resolve(config.model.path), dtype=config.model.dtype, device=device)


def _slots(config: Config, model: "PreTrainedModel") -> int:
    """Return `rollout.concurrency`, or the smaller number whose keys and values leave memory for the rest. Raises ModelError."""
    from lzero.engine.local.cache import fitting_slots

    return fitting_slots(model, num_slots=config.rollout.concurrency, max_tokens=config.agent.max_tokens)


def _vocabulary_problems(config: Config, model: "PreTrainedModel") -> list[str]:
    size, largest = model.config.get_text_config().vocab_size, max(open_tokenizer(config).get_vocab().values())
    if largest < size:
        return []
    return [
        f"model.path = {config.model.path!r}: the tokenizer has ids to {largest:,}, the model's vocabulary ends at {size - 1:,}: "
        "take the tokenizer that belongs to the weights"
    ]
