"""Supervised fine-tuning: imitate the actions of recorded episodes.

    run directories ──▶ samples ──▶ mix (seeded, by weight) ──▶ batch ──▶ update ──▶ … ──▶ model directory
                           └─ held out, one in twenty ──▶ held-out loss

The update is that of reinforcement learning, with the likelihood of every action token as its objective.
"""

import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.optim import AdamW, Muon, Optimizer

from lzero.algo.batches import collate, unscored
from lzero.algo.layout import Layout
from lzero.algo.loss import likelihood
from lzero.config import Config, SftConfig
from lzero.errors import ConfigError
from lzero.models import (
    Qwen3Sizes,
    load_model,
    load_tokenizer,
    new_model,
    resolve,
    save_model,
    select_device,
)
from lzero.seeds import derive_seed
from lzero.store import RunDirectory
from lzero.train.demonstrations import fresh_tokenizer, read_demonstrations
from lzero.train.lora import adapt, check_lora, merged_weights
from lzero.train.optimizers import weights_of, without
from lzero.train.schedule import warmup_stable_decay
from lzero.train.score import sample_logprobs
from lzero.train.seeding import seeded
from lzero.train.trainable import freeze_layers
from lzero.train.update import update_policy
from lzero.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FRESH = "fresh"
"""`model.path` of a new, untrained model."""
HELD_OUT = 20
"""One episode in this number is held out, and never trained on."""
MOST_HELD_OUT = 64
"""The most samples of a source for the held-out loss."""
NUM_EVALUATIONS = 10
"""Number of held-out losses, evenly spread over the tokens."""


ONLY_IN_TRAIN = ("ranks", "sequence_ranks", "offload")
"""Keys of `train` that divide an update over processes, or move it to the host."""
OF_ITS_OWN = ("optimizer", "offload_optimizer")
"""Keys of `train` in whose place `sft` has its own."""


@dataclass(frozen=True, kw_only=True)
class SftStep:
    """One optimiser step, for a display. `held_out` is None if it was not measured."""

    step: int
    tokens: int
    loss: float
    held_out: float | None


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """Result of fine-tuning; losses are in nats per action token."""

    run: RunDirectory
    model_dir: Path
    steps: int
    tokens: int
    held_out_before: float
    held_out_after: float
    seconds: float


def fine_tune(config: Config, *, on_step: Callable[[SftStep], None] = lambda step: None) -> FineTuned:
    """Fine-tune `model.path` on the episodes of `sft.episodes`, and write the result to `model/` in a new run directory.

    Raises ConfigError, ModelError or StoreError before anything is written, TrainError if the loss is not finite.
    """
    start = time.monotonic()
    if config.run.trackers:
        raise ConfigError("run.trackers has no effect in `lzero sft`, which writes metrics.jsonl only: remove it")
    unused = [
        *config.train.inert("train", *ONLY_IN_TRAIN, why="in `lzero sft`, which trains in one process"),
        *config.train.inert("train", *OF_ITS_OWN, why="in `lzero sft`, where sft.optimizer names it"),
        *config.critic.inert("critic", "kind", why="in `lzero sft`, which has no rewards"),
        *(
            config.sft.inert("sft", "embedding_lr", why='with sft.optimizer = "adamw"')
            if config.sft.optimizer == "adamw"
            else ()
        ),
    ]
    if unused:
        raise ConfigError("; ".join(f"{sentence}: remove it" for sentence in unused))
    if not config.sft.episodes:
        raise ConfigError(
            "sft.episodes is empty: name run directories to learn from, as in sft.episodes='[\"runs/a\"]'"
        )
    if config.lora.rank:
        if config.model.path == FRESH:
            raise ConfigError(
                f'lora.rank = {config.lora.rank} with model.path = "{FRESH}": a new model has nothing to adapt'
            )
        check_lora(config)
    focuses(config.sft)
    with seeded(config.run):
        model, tokenizer = starting_model(config)
        freeze_layers(model, config.train.frozen_layers)
        adapt(model, config)
        mix = Mix(read_sources(config.sft, tokenizer), config.sft.weights, seed=derive_seed(config.run.seed, "sft"))
        run = RunDirectory.create(_renamed(config), command="lzero sft")
        before = held_out_loss(model, mix.held_out, max_tokens=config.train.micro_batch_tokens)
        step = SftStep(step=0, tokens=0, loss=math.nan, held_out=before)
        for step in imitate(model, mix, config, run):
            on_step(step)
        assert step.held_out is not None
        weights = dict(merged_weights(model.state_dict().items(), model))
        save_model(model, tokenizer, run.path / "model", weights=weights)
    return FineTuned(
        run=run,
        model_dir=run.path / "model",
        steps=step.step,
        tokens=step.tokens,
        held_out_before=before,
        held_out_after=step.held_out,
        seconds=time.monotonic() - start,
    )


def read_sources(sft: SftConfig, tokenizer: "PreTrainedTokenizerFast") -> list[list[Sample]]:
    """Return the samples of each of `sft.episodes`, with loss where its focus matches.

    Raises ConfigError as `focuses` does; StoreError, ModelError as `read_demonstrations` does.
    """
    return [
        read_demonstrations(Path(run_dir), tokenizer, focus=focus)
        for run_dir, focus in zip(sft.episodes, focuses(sft), strict=True)
    ]


def focuses(sft: SftConfig) -> list[re.Pattern[str] | None]:
    """Return the focus of each of `sft.episodes`. Raises ConfigError for a wrong `sft.focus`."""
    found = [sft.focus] * len(sft.episodes) if isinstance(sft.focus, str) else list(sft.focus)
    if len(found) != len(sft.episodes):
        raise ConfigError(
            f"sft.focus = {found}: give one regular expression for all, or one for each of the {len(sft.episodes)} sft.episodes"
        )
    return [_compiled(focus) for focus in found]


def starting_model(config: Config) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """Return the model that `model.path` names. "fresh" is a new, seeded one of the nano's shape, with the words of the demonstrations.

    Raises ModelError, StoreError.
    """
    dtype, device = config.model.dtype, config.model.device
    if config.model.path != FRESH:
        path = resolve(config.model.path)
        return load_model(path, dtype=dtype, device=device), load_tokenizer(path)
    tokenizer = fresh_tokenizer([Path(run_dir) for run_dir in config.sft.episodes])
    model = new_model(Qwen3Sizes(), tokenizer, seed=derive_seed(config.run.seed, "model"))
    return model.to(device=select_device(device), dtype=getattr(torch, dtype)), tokenizer


def imitate(model: "PreTrainedModel", mix: "Mix", config: Config, run: RunDirectory) -> Iterator[SftStep]:
    """Make optimiser steps until `sft.tokens` tokens are used. Write a line of metrics.jsonl for each; the last has its held-out loss."""
    sft = config.sft
    optimizers = make_optimizers(model, sft)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    step, tokens, evaluations = 0, 0, 0
    while tokens < sft.tokens:
        rows = [unscored(sample, advantage=1.0) for sample in mix.draw(sft.batch_size)]
        batch = collate(rows, Layout(max_tokens=config.train.micro_batch_tokens))
        middle = (tokens + batch.num_tokens / 2) / sft.tokens
        factor = warmup_stable_decay(middle, warmup=sft.warmup, decay=sft.decay)
        for optimizer, bases in zip(optimizers, rates, strict=True):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * factor
        measured = update_policy(model, optimizers, batch, loss_fn=likelihood, grad_clip=config.train.grad_clip)
        step, tokens = step + 1, tokens + batch.num_tokens
        metrics = {name: float(measured[name].value) for name in ("train/loss", "train/grad_norm", "train/tokens")}
        metrics["train/lr_factor"] = factor
        held_out = None
        if tokens >= sft.tokens or tokens / sft.tokens * NUM_EVALUATIONS >= evaluations + 1:
            evaluations = int(tokens / sft.tokens * NUM_EVALUATIONS)
            held_out = held_out_loss(model, mix.held_out, max_tokens=config.train.micro_batch_tokens)
            metrics["held_out/loss"] = held_out
        run.append_metrics(metrics, phase="train", update=step)
        yield SftStep(step=step, tokens=tokens, loss=metrics["train/loss"], held_out=held_out)


class Mix:
    """Draws samples from several sources by weight, seeded. Each source is shuffled anew every epoch.

    Raises ConfigError for weights that do not fit the sources.
    """

    def __init__(self, sources: Sequence[Sequence[Sample]], weights: Sequence[float], *, seed: int) -> None:
        if weights and (len(weights) != len(sources) or min(weights) < 0 or not sum(weights)):
            raise ConfigError(
                f"sft.weights = {list(weights)}: give one share for each of the {len(sources)} sft.episodes, not all 0"
            )
        split = [_split(source) for source in sources]
        self.held_out = [sample for _, held_out in split for sample in held_out]
        """Samples that are never drawn."""
        self._weights = list(weights) or [float(len(source)) for source in sources]
        self._random = random.Random(seed)
        self._decks = [_deal(train, random.Random(derive_seed(seed, place))) for place, (train, _) in enumerate(split)]

    def draw(self, num_samples: int) -> list[Sample]:
        return [next(deck) for deck in self._random.choices(self._decks, self._weights, k=num_samples)]


def make_optimizers(model: "PreTrainedModel", sft: SftConfig) -> list[Optimizer]:
    """Return AdamW; or Muon for the matrices inside the layers, and AdamW for embeddings, output layer and norms. No weight decay."""
    weights = weights_of(model)
    if sft.optimizer == "adamw":
        return [AdamW(weights.all, lr=sft.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
    rest = without(weights.all, weights.inner)
    muon = Muon(weights.inner, lr=sft.lr, momentum=0.95, weight_decay=0.0)
    if not rest:
        return [muon]
    return [muon, AdamW(rest, lr=sft.embedding_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def held_out_loss(model: "PreTrainedModel", samples: Sequence[Sample], *, max_tokens: int) -> float:
    """Return the mean of −log π over all action tokens of `samples`, in nats."""
    total = math.fsum(value for row in sample_logprobs(model, samples, Layout(max_tokens=max_tokens)) for value in row)
    return -total / sum(sum(sample.mask) for sample in samples)


def _split(source: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return training and held-out samples. Whole episodes are chosen by their ids, so a longer recording keeps the choice."""
    held_out = [sample for sample in source if derive_seed("held out", sample.episode_id) % HELD_OUT == 0]
    held_out = held_out[:MOST_HELD_OUT] or list(source[:1])
    chosen = {sample.episode_id for sample in held_out}
    train = [sample for sample in source if sample.episode_id not in chosen]
    return train or list(source), held_out


def _deal(samples: Sequence[Sample], generator: random.Random) -> Iterator[Sample]:
    while True:
        yield from generator.sample(samples, len(samples))


def _compiled(focus: str) -> re.Pattern[str] | None:
    try:
        return re.compile(focus) if focus else None
    except re.error as error:
        raise ConfigError(f"sft.focus = {focus!r} is not a regular expression: {error}") from None


def _renamed(config: Config) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update={"name": f"{config.run.name}-sft"})})
