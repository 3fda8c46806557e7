"""Orders of rank 0, and how every rank obeys them.

All ranks obey an order at the same time, each with arrays of its own, and make the same collective operations meanwhile. Each returns a few
facts and arrays, which rank 0 gets from all ranks.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from msgspec import Struct
from torch import Tensor

from lzero.algo.batches import Batch, anchor, lay_out_all
from lzero.algo.layout import Layout, Packing
from lzero.algo.loss import make_loss_fn
from lzero.algo.metrics import Metric, Metrics, summed
from lzero.errors import NotFinite
from lzero.train.optimizers import set_rate
from lzero.train.ranks.checkpoint import write_when_told
from lzero.train.ranks.member import Member
from lzero.train.ranks.weights import ShardedWeights
from lzero.train.ranks.wire import Arrays, to_scored
from lzero.train.score import sample_logprobs
from lzero.train.state import state_tensors
from lzero.train.stored import own_parts
from lzero.train.update import accumulate, make_step


class Facts(Struct, frozen=True, kw_only=True):
    """Report of a rank on an optimiser step, without the values of its metrics. Empty for other orders."""

    skipped: str = ""
    """Why the step was skipped; "" if it was made."""
    loss: float = 0.0
    """Loss of the step over all ranks; `norm` is that of the gradient over all ranks."""
    norm: float = 0.0
    metrics: tuple[tuple[str, Literal["mean", "max"]], ...] = ()
    sizes: dict[str, int] = {}
    """The numbers of its `Batch`."""


Answer = tuple[Facts, Arrays]
NOTHING = Facts()


class Score(Struct, frozen=True, kw_only=True, tag=True):
    """Return the log-probabilities of samples under the policy or its reference, or the critic's values."""

    of: Literal["policy", "reference", "critic"]
    max_tokens: int
    packing: Packing
    whole_episodes: bool
    square: bool

    def obey(self, member: Member, arrays: Arrays) -> Answer:
        trainer = member.trainer
        layout = Layout(
            max_tokens=self.max_tokens, packing=self.packing, whole_episodes=self.whole_episodes, square=self.square
        )
        samples = [row.sample for row in to_scored(arrays)[0]]
        if self.of == "critic":
            assert trainer.critic is not None
            scores = trainer.critic.values(samples, layout, agreed=member.group.largest)
        else:
            with trainer.acting(self.of) as model:
                scores = sample_logprobs(model, samples, layout, agreed=member.group.largest)
        return NOTHING, {"scores": torch.tensor([value for row in scores for value in row], dtype=torch.float64)}


class LearnPolicy(Struct, frozen=True, kw_only=True, tag=True):
    """Make one optimiser step of the policy and of its critic, if it has one, on the samples of all ranks, as one process does.

    The weights of their tokens are over the whole step.
    """

    lr: float
    lags: bool

    def obey(self, member: Member, arrays: Arrays) -> Answer:
        trainer, group, critic = member.trainer, member.group, member.trainer.critic
        algo = trainer.config.algo
        set_rate(trainer.optimizers, self.lr)
        batch = lay_out_all(*to_scored(arrays), trainer.layout)
        for optimizer in trainer.optimizers:
            optimizer.zero_grad()
        passes = [*batch.micro_batches]
        passes += [anchor()] * (group.largest(len(passes)) - len(passes))
        done = [
            accumulate(
                trainer.model, micro, loss_fn=make_loss_fn(algo), entropies=algo.entropy_coef > 0, lags=self.lags
            )
            for micro in passes
        ]
        loss = member.total(sum(loss.item() for loss, _ in done))
        of_critic: Metrics = {}

        def learn_values() -> None:
            of_critic.update({} if critic is None else critic.learn(batch, agreed=group.largest, total=member.total))

        try:
            norm = make_step(
                trainer.optimizers, loss=loss, grad_clip=trainer.config.train.grad_clip, before=learn_values
            )
        except NotFinite as error:
            return Facts(skipped=str(error)), {}
        found = summed(metrics for _, metrics in done[: len(batch.micro_batches)]) | of_critic
        facts = Facts(
            loss=loss,
            norm=norm,
            metrics=_reductions(found),
            sizes={name: number for name, number in vars(batch).items() if name != "micro_batches"},
        )
        return facts, _numbers(found)


class LearnValues(Struct, frozen=True, kw_only=True, tag=True):
    """Make the critic's optimiser steps alone, on the samples of all ranks."""

    def obey(self, member: Member, arrays: Arrays) -> Answer:
        critic, group = member.trainer.critic, member.group
        assert critic is not None
        batch = lay_out_all(*to_scored(arrays), member.trainer.layout)
        try:
            found = critic.learn(batch, agreed=group.largest, total=member.total)
        except NotFinite as error:
            return Facts(skipped=str(error)), {}
        return Facts(metrics=_reductions(found)), _numbers(found)


class Send(Struct, frozen=True, kw_only=True, tag=True):
    """Gather all weights, or those of the adapter, one after another, as rank 0 does to send or save them."""

    only_adapter: bool

    def obey(self, member: Member, arrays: Arrays) -> Answer:
        ShardedWeights(member.trainer.model, only_adapter=self.only_adapter).follow()
        return NOTHING, {}


class Keep(Struct, frozen=True, kw_only=True, tag=True):
    """Copy this rank's part of the optimizers' state for a checkpoint, and write it when rank 0 names the place."""

    number: int

    def obey(self, member: Member, arrays: Arrays) -> Answer:
        trainer, group = member.trainer, member.group
        parts = own_parts(
            state_tensors(trainer.model, trainer.all_optimizers, critic=trainer.critic_model), first=False
        )
        write_when_told(parts, group, number=self.number)
        return NOTHING, {}


class Stop(Struct, frozen=True, kw_only=True, tag=True):
    """End the worker."""

    def obey(self, member: Member, arrays: Arrays) -> Answer:
        return NOTHING, {}


Order = Score | LearnPolicy | LearnValues | Send | Keep | Stop


def metrics_of(answers: Sequence[Answer]) -> list[Metrics]:
    """Return the metrics of each rank's `LearnPolicy`."""
    return [
        {
            name: Metric(value, weight, reduction)
            for (name, reduction), value, weight in zip(
                facts.metrics, arrays["values"].tolist(), arrays["weights"].tolist(), strict=True
            )
        }
        for facts, arrays in answers
    ]


def batches_of(answers: Sequence[Answer]) -> list[Batch]:
    """Return the batch of each rank's `LearnPolicy`, without its micro-batches."""
    return [Batch(micro_batches=(), **facts.sizes) for facts, _ in answers]


def _reductions(metrics: Metrics) -> tuple[tuple[str, Literal["mean", "max"]], ...]:
    return tuple((name, metric.reduction) for name, metric in metrics.items())


def _numbers(metrics: Metrics) -> dict[str, Tensor]:
    """Return values and weights as arrays: JSON has no NaN."""
    return {
        "values": torch.tensor([float(metric.value) for metric in metrics.values()], dtype=torch.float64),
        "weights": torch.tensor([float(metric.weight) for metric in metrics.values()], dtype=torch.float64),
    }
