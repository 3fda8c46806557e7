"""The policy that is trained and its reference, and the operations on them: score, give credit, update."""

import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch.optim import Optimizer

from lzero.algo.batches import Scored, collate, of_tokens, step_advantages
from lzero.algo.credit import make_estimator, shuffle_rewards
from lzero.algo.gae import Credit, credit_with_values
from lzero.algo.lag import effective_sample_size
from lzero.algo.layout import Layout, Packing
from lzero.algo.loss import make_loss, make_loss_fn
from lzero.algo.metrics import Metrics, combined
from lzero.algo.samples import to_samples
from lzero.algo.trajectories import penalised, penalties, trajectories, values_by_step
from lzero.config import Config
from lzero.errors import NotFinite, TrainError
from lzero.models import load_model, load_tokenizer, resolve
from lzero.seeds import derive_seed
from lzero.train.attention.choice import choose_attention
from lzero.train.attention.interface import kernel_of
from lzero.train.checkpoint import Progress, Snapshot, read_manifest, restore_optimizers, take_snapshot
from lzero.train.critic import Critic, make_critic
from lzero.train.lora import check_lora, restore_adapter, without_adapter
from lzero.train.metrics import sampler_gap, value_metrics
from lzero.train.optimizers import make_optimizers, set_rate
from lzero.train.packing import choose_packing
from lzero.train.resume import check_model
from lzero.train.schedule import learning_rate
from lzero.train.score import sample_logprobs
from lzero.train.skipped import SkipCount, SkippedStep
from lzero.train.trainable import Role, in_role
from lzero.train.transfer import ModelWeights, WeightSource
from lzero.train.update import update_policy
from lzero.types import Group, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


class Load(Protocol):
    """Loads a model, or a rank's part of one, as `in_role` prepares it."""

    def __call__(self, directory: Path, *, role: Role) -> "PreTrainedModel": ...


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Log-probabilities of every sample's tokens by the trainer's own forward passes; zeros if the settings do not need them."""

    reference_logprobs: Sequence[tuple[float, ...]]
    """Log-probabilities under the initial policy."""
    old_logprobs: Sequence[tuple[float, ...]]
    """Log-probabilities under the policy before the update; with `rollout.max_lag`, the sampler's."""
    values: Sequence[tuple[float, ...]] | None = None
    """The critic's values; None without a critic."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Model, reference and optimizers of a run. `build` makes one from a configuration, or from a checkpoint."""

    config: Config
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    reference: "PreTrainedModel | None"
    """The initial policy, for the KL penalty; None if its coefficient is 0. With an adapter, the model itself, which computes as the
    initial policy when the adapter is off."""
    optimizers: Sequence[Optimizer]
    packing: Packing
    """The way in which sequences share rows: `train.packing`, or the best for the model."""
    attention: str = ""
    """How the model attends, and why not faster."""
    skips: SkipCount = field(default_factory=SkipCount)
    critic: Critic | None = None
    """The critic, for estimators that need values."""

    @classmethod
    def build(
        cls,
        config: Config,
        *,
        checkpoint: Path | None = None,
        load: Load | None = None,
        shard_head: Callable[[torch.nn.Module], object] | None = None,
    ) -> tuple["Trainer", Progress]:
        """Load everything. With a `checkpoint`, the policy, its optimizers and the random state come from it.

        The reference is always the configuration's model. `load` and `shard_head`, of the critic, load this rank's part; by default,
        everything is whole. Raises ModelError or StoreError.
        """
        if config.lora.rank:
            check_lora(config)
        progress = read_manifest(checkpoint).progress if checkpoint else Progress()
        initial = resolve(config.model.path)
        load = load or partial(_load_whole, config)
        tokenizer = load_tokenizer(checkpoint or initial)
        if checkpoint:
            check_model(checkpoint, tokenizer, initial=initial)
        model = load(initial if config.lora.rank else checkpoint or initial, role="policy")
        if checkpoint and config.lora.rank:
            restore_adapter(checkpoint, model)
        reference = None
        if config.algo.kl_coef > 0:
            reference = model if config.lora.rank else load(initial, role="reference")
        optimizers = make_optimizers(model, config.train)
        critic = make_critic(config, model, tokenizer, partial(load, role="critic"), shard_head=shard_head)
        others = [*([] if reference is None else [reference]), *([] if critic is None else [critic.model.trunk])]
        attention = choose_attention(model, config.train.attention, also=others)
        trainer = cls(
            config=config,
            model=model,
            tokenizer=tokenizer,
            reference=reference,
            optimizers=optimizers,
            packing=choose_packing(model, config.train.packing),
            attention=attention,
            skips=SkipCount(in_a_row=progress.skipped_in_a_row),
            critic=critic,
        )
        if checkpoint:
            restore_optimizers(checkpoint, model, trainer.all_optimizers, critic=trainer.critic_model)
        return trainer, progress

    @property
    def all_optimizers(self) -> list[Optimizer]:
        """The policy's, then the critic's if there is one."""
        return [*self.optimizers, *(() if self.critic is None else self.critic.optimizers)]

    @property
    def critic_model(self) -> torch.nn.Module | None:
        return None if self.critic is None else self.critic.model

    @property
    def layout(self) -> Layout:
        return Layout(
            max_tokens=self.config.train.micro_batch_tokens,
            packing=self.packing,
            whole_episodes=make_loss(self.config.algo).keeps_episodes_whole,
            square=kernel_of(self.model) is None,
        )

    def samples(self, groups: Sequence[Group]) -> list[Sample]:
        """Return the samples of the groups' episodes. Raises TrainError if no episode has a step."""
        samples = [sample for group in groups for episode in group.episodes for sample in to_samples(episode)]
        if not any(any(sample.mask) for sample in samples):
            raise TrainError(
                "no episode of this batch made a step: check whether agent.max_tokens is below the length of a prompt"
            )
        return samples

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Return the log-probabilities that the settings need."""
        zeros = [(0.0,) * len(sample.token_ids) for sample in samples]
        layout = self.layout
        old = self.logprobs(samples, layout) if self.scores_old else zeros
        if self.lags:
            old = [sample.logprobs for sample in samples]
        return Scores(
            reference_logprobs=zeros if self.reference is None else self.logprobs(samples, layout, of="reference"),
            old_logprobs=old,
            values=None if self.critic is None else self.values(samples, layout),
        )

    def logprobs(
        self, samples: Sequence[Sample], layout: Layout, *, of: Literal["policy", "reference"] = "policy"
    ) -> list[tuple[float, ...]]:
        """Return the log-probabilities of every sample's action tokens under the policy or its reference; 0 for other tokens."""
        with self.acting(of) as model:
            return sample_logprobs(model, samples, layout)

    @contextmanager
    def acting(self, of: Literal["policy", "reference"]) -> Iterator["PreTrainedModel"]:
        """Yield the model that computes as the policy, or as its reference, within the block."""
        model = self.model if of == "policy" else self.reference
        assert model is not None
        with nullcontext() if of == "policy" else without_adapter(model):
            yield model

    def values(self, samples: Sequence[Sample], layout: Layout) -> list[tuple[float, ...]]:
        """Return the critic's value before every action token; 0 for other tokens."""
        assert self.critic is not None
        return self.critic.values(samples, layout)

    def weights(self) -> WeightSource:
        """Return the policy's weights, for a transfer."""
        return ModelWeights(self.model)

    def snapshot(self, progress: Progress, score: float | None) -> Snapshot:
        """Return a copy of the current state for a checkpoint; `score` is this policy's score on held-out tasks."""
        return take_snapshot(
            self.model,
            self.tokenizer,
            self.all_optimizers,
            config=self.config,
            progress=progress,
            score=score,
            critic=self.critic_model,
        )

    @property
    def lags(self) -> bool:
        """Whether earlier policies may have drawn the tokens of a batch."""
        return self.config.rollout.max_lag > 0

    @property
    def scores_old(self) -> bool:
        """Whether the settings need a forward pass for the policy's log-probabilities before the update."""
        if self.lags:
            return False
        algo = self.config.algo
        penalised = algo.kl_coef > 0 and algo.kl_in == "reward"
        return make_loss(algo).scores_old_policy or algo.importance_cap > 0 or penalised

    def credit(
        self, groups: Sequence[Group], samples: Sequence[Sample], scores: Scores, *, update: int
    ) -> dict[str, Credit]:
        """Return episode id → its credit.

        If a penalty or a value is not finite, all advantages are NaN, so that the optimiser step is skipped and its batch kept.
        """
        algo = self.config.algo
        ids = [episode.id for group in groups for episode in group.episodes]
        assert len(set(ids)) == len(ids), "two episodes of a batch have one id"
        credited = trajectories(groups, None if scores.values is None else values_by_step(samples, scores.values))
        unknown = {
            name: Credit(steps=(math.nan,) * len(each.rewards)) for name, each in zip(ids, credited, strict=True)
        }
        if not all(math.isfinite(value) for own in scores.values or () for value in own):
            return unknown
        if algo.shuffle_rewards:
            credited = shuffle_rewards(credited, seed=derive_seed(self.config.run.seed, "shuffle rewards", update))
        if algo.kl_coef > 0 and algo.kl_in == "reward":
            costs = penalties(samples, scores.reference_logprobs, scores.old_logprobs, kind=algo.kl)
            if not all(map(math.isfinite, costs.values())):
                return unknown
            credited = penalised(credited, ids, costs, kl_coef=algo.kl_coef)
        return dict(zip(ids, credit_with_values(make_estimator(algo), credited), strict=True))

    def scored(self, samples: Sequence[Sample], scores: Scores, credited: Mapping[str, Credit]) -> list[Scored]:
        """Return the samples with an advantage for each token and, with a critic, its value and its target."""
        rows = []
        for number, sample in enumerate(samples):
            own = credited[sample.episode_id]
            per_step = step_advantages(sample, own.steps)
            row = Scored(
                sample=sample,
                advantages=per_step if own.tokens is None else of_tokens(sample, own.tokens),
                reference_logprobs=scores.reference_logprobs[number],
                old_logprobs=scores.old_logprobs[number],
                values=None if scores.values is None else scores.values[number],
                value_targets=None if scores.values is None else _targets(sample, own),
            )
            rows.append(row)
        return rows

    def update(
        self,
        scored: Sequence[Scored],
        *,
        update: int,
        on_skip: Callable[[Sequence[SkippedStep]], None] = lambda skipped: None,
    ) -> dict[str, float]:
        """Make the optimiser steps of one update, and return means of their metrics. While the critic warms up, it learns alone.

        A step with a loss or gradient that is not finite is skipped; `on_skip` gets all skipped steps of this update so far. Then raises
        TrainError at the third in a row.
        """
        lr = learning_rate(update, self.config.train)
        set_rate(self.optimizers, lr)
        steps: list[Metrics] = []
        skipped: list[SkippedStep] = []
        for number, part in enumerate(self._parts(scored, update)):
            try:
                # The lag is measured in the first step: later ones have a policy that earlier ones moved.
                steps.append(self._step(part, update=update, lags=self.lags and not steps))
                self.skips.made()
            except NotFinite as error:
                logger.warning("update %d: %s", update, error)
                skipped.append(SkippedStep(number=number, reason=str(error), batch=tuple(part)))
                on_skip(skipped)
                self.skips.skipped(f"update {update}: {error}")
        gap = sampler_gap(scored) if self.scores_old else {}
        means = {name: float(metric.value) for name, metric in combined(steps).items()}
        if "train/ratio_square" in means:
            means["train/ess"] = effective_sample_size(means)
        known = {} if self.critic is None else value_metrics(scored)
        return means | gap | known | {"train/lr": lr, "train/skipped": float(len(skipped))}

    def _step(self, part: Sequence[Scored], *, update: int, lags: bool) -> Metrics:
        """Make one optimiser step of policy and critic.

        Raises NotFinite if a loss or gradient is not finite. Then policy and critic are unchanged: neither learns from a batch from which
        one of them cannot. The exception: if a later epoch of the critic fails, its earlier epochs remain.
        """
        if self.critic is not None and update < self.config.critic.warmup_updates:
            return self.learn_values(part)
        return self._learn(part, lags=lags)

    def _learn(self, part: Sequence[Scored], *, lags: bool) -> Metrics:
        """Make an optimiser step of the policy. The critic learns when the policy's gradient is known to be finite."""
        algo = self.config.algo
        batch = collate(part, self.layout, average=algo.average, constant=self.constant)
        of_critic: Metrics = {}
        own = update_policy(
            self.model,
            self.optimizers,
            batch,
            loss_fn=make_loss_fn(algo),
            grad_clip=self.config.train.grad_clip,
            entropies=algo.entropy_coef > 0,
            lags=lags,
            before=lambda: of_critic.update({} if self.critic is None else self.critic.learn(batch)),
        )
        return of_critic | own

    def learn_values(self, part: Sequence[Scored]) -> Metrics:
        """Make the optimiser steps of the critic. Raises NotFinite."""
        assert self.critic is not None
        return self.critic.learn(collate(part, self.layout, average=self.config.algo.average, constant=self.constant))

    @property
    def constant(self) -> float:
        """Denominator of algo.average = "constant", for each episode."""
        return float(self.config.agent.max_steps * self.config.agent.response_tokens)

    def _parts(self, scored: Sequence[Scored], update: int) -> Iterator[list[Scored]]:
        """Yield the samples of each optimiser step: all in `train.minibatches` parts by episodes, repeated `train.epochs` times."""
        settings = self.config.train
        for epoch in range(settings.epochs):
            seed = derive_seed(self.config.run.seed, "minibatches", update, epoch)
            yield from split(scored, settings.minibatches, seed=seed)


def _targets(sample: Sample, credit: Credit) -> tuple[float, ...]:
    """Return the critic's target for each token; NaN if it could not be computed."""
    if credit.targets is None:
        return tuple(math.nan * on for on in sample.mask)
    return of_tokens(sample, credit.targets)


def _load_whole(config: Config, directory: Path, *, role: Role) -> "PreTrainedModel":
    return in_role(load_model(directory, dtype=config.model.dtype, device=config.model.device), config, role)


def split(scored: Sequence[Scored], num_parts: int, *, seed: int) -> list[list[Scored]]:
    """Divide whole episodes at random into parts of nearly equal numbers. Parts without an action token are left out."""
    if num_parts == 1:
        return [list(scored)]
    episodes: dict[str, list[Scored]] = {}
    for row in scored:
        if any(row.sample.mask):
            episodes.setdefault(row.sample.episode_id, []).append(row)
    drawn = list(episodes.values())
    random.Random(seed).shuffle(drawn)
    parts = [[row for rows in drawn[number::num_parts] for row in rows] for number in range(num_parts)]
    return [part for part in parts if part]
