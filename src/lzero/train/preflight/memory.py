"""Try the memory of an update before the first rollout: the longest possible batch, through all passes, changing nothing."""

import logging
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import psutil
import torch

from lzero.algo.batches import Scored
from lzero.config import Config
from lzero.errors import ConfigError, ModelError, NotFinite, RankError
from lzero.plan.architecture import architecture_of
from lzero.plan.memory import LOADED_FIRST, Part, advice, gigabytes, total, trainer_memory
from lzero.plan.placement import configured
from lzero.train.policy import compute_spec
from lzero.train.probe import sample_of
from lzero.train.skipped import SkipCount
from lzero.train.trainer import Trainer
from lzero.types import Sample

OUT_OF_MEMORY = ("allocate", "OutOfMemoryError", "MemoryError")
"""Words of error messages that mean that memory ran out, on this rank or another."""
LEAST_MISSING = 0.1
"""Share of the predicted need that is taken as missing where the prediction says that nothing is."""


def is_wanted(config: Config, device: str) -> bool:
    """Return whether `train.memory_test` asks for the test on this device."""
    wanted = config.train.memory_test
    return wanted == "on" or (wanted == "auto" and device == "cuda")


def check_memory(trainer: Trainer) -> str:
    """Make the passes of an update on the longest possible batch, and return a sentence with its peak of memory.

    The advantages are NaN, so the optimiser step is skipped: weights, moments and random state stay as they are. Meanwhile memory of the
    moments' size is held. Raises ConfigError, with the settings that would save memory, if there is not enough, on this rank or another.
    """
    samples, device = longest_samples(trainer), compute_spec(trainer.model).device
    free = _free(device)
    parts = _predicted(trainer.config)
    moments = sum(part.size for part in parts if part.name == "moments")
    _reset_peak(device)
    try:
        held = torch.empty(int(moments), dtype=torch.uint8, device=device)
        _make_passes(trainer, samples)
        del held
    except (torch.OutOfMemoryError, RuntimeError, RankError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(word in str(error) for word in OUT_OF_MEMORY):
            raise
        where = f"{device}, of which {gigabytes(free)} were free beside weights and engine"
        where = f"the memory of every rank ({error})" if isinstance(error, RankError) else where
        raise ConfigError(_too_much(trainer.config, samples, where, device=device, free=free)) from error
    tokens = sum(len(sample.token_ids) for sample in samples)
    predicted = f"; {gigabytes(total(parts))} predicted for the learner alone" if parts else ""
    return f"memory test: an update on {tokens:,} tokens peaks at {_peak(device, moments)} on {device}{predicted}"


def longest_samples(trainer: Trainer) -> list[Sample]:
    """Return as many samples of `agent.max_tokens` as fit into a pass of each rank, at least one. Each shares its first half with the
    others."""
    config = trainer.config
    length = config.agent.max_tokens
    vocabulary = trainer.model.config.get_text_config().vocab_size
    number = max(1, config.train.micro_batch_tokens // length) * config.train.ranks
    half = [position % vocabulary for position in range(length // 2)]
    return [
        sample_of([*half, *((position + own) % vocabulary for position in range(len(half), length))])
        for own in range(number)
    ]


def _make_passes(trainer: Trainer, samples: list[Sample]) -> None:
    once = trainer.config.train.model_copy(update={"minibatches": 1, "epochs": 1})
    alone = replace(
        trainer,
        config=trainer.config.model_copy(update={"train": once}),
        critic=None,  # it learns after the policy's gradient is found finite, so never here; its own pass is made below
        skips=SkipCount(),
    )
    scores = trainer.score(samples)
    rows = [
        Scored(
            sample=sample,
            advantages=tuple(math.nan * on for on in sample.mask),
            reference_logprobs=scores.reference_logprobs[number],
            old_logprobs=scores.old_logprobs[number],
        )
        for number, sample in enumerate(samples)
    ]
    with _quiet():
        alone.update(rows, update=0)
    if trainer.critic is not None:
        # It learns while the policy's gradient waits to be applied.
        weights = [] if trainer.config.train.offload_optimizer else trainer.model.parameters()
        gradient = [torch.empty_like(weight) for weight in weights if weight.requires_grad]
        targets = [replace(row, values=(0.0,) * len(row.advantages), value_targets=row.advantages) for row in rows]
        with suppress(NotFinite):
            trainer.learn_values(targets)
        del gradient


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the trainer from logging that it skips the step."""
    logger, refuse = logging.getLogger(Trainer.__module__), lambda _: False
    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)


def _predicted(config: Config) -> list[Part]:
    """Return the memory that a plan computes for the trainer; nothing for an architecture that it does not know."""
    try:
        return trainer_memory(architecture_of(config.model.path), config, configured(config))
    except ModelError:
        return []


def _too_much(config: Config, samples: list[Sample], where: str, *, device: torch.device, free: float) -> str:
    length = len(samples[0].token_ids)
    text = f"memory test: an update on {len(samples)} × {length:,} tokens does not fit into {where}"
    parts = _predicted(config)
    fixes: list[str] = []
    if parts:
        model, placement = architecture_of(config.model.path), configured(config)
        needed = total([part for part in parts if part.name not in LOADED_FIRST])
        missing = max(needed - free, LEAST_MISSING * needed)
        fixes = list(advice(model, config, placement, over=missing, device_bytes=_whole(device)))
    return f"{text}. {'; '.join(fixes) or 'Lower agent.max_tokens, or train on more ranks'}"


def _free(device: torch.device) -> float:
    return float(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)


def _whole(device: torch.device) -> float:
    return float(
        torch.cuda.get_device_properties(device).total_memory
        if device.type == "cuda"
        else psutil.virtual_memory().total
    )


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device, moments: float) -> str:
    """Return the peak as text. On a CPU it is the process's own; memory that is held but never written does not count there."""
    if device.type == "cuda":
        return f"{gigabytes(torch.cuda.max_memory_allocated(device))} of {gigabytes(_whole(device))}"
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + moments
    return f"{gigabytes(peak)} of {gigabytes(_whole(device))}"
