"""A rank's part of the models and the optimizer; and the trainer of rank 0, whose passes all ranks make."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import torch

from lzero.algo.batches import Scored, unscored, weigh
from lzero.algo.layout import Layout
from lzero.algo.metrics import Metrics, combined
from lzero.config import Config
from lzero.errors import NotFinite
from lzero.train.checkpoint import Progress, Snapshot
from lzero.train.critic import made_trainable
from lzero.train.ranks.balance import divide
from lzero.train.ranks.checkpoint import ShardedState
from lzero.train.ranks.crew import Crew
from lzero.train.ranks.group import Group
from lzero.train.ranks.loading import load_parts, skeleton
from lzero.train.ranks.orders import Keep, LearnValues, Member, Score, Send, Step, batches_of, metrics_of
from lzero.train.ranks.sharding import Sharding, shard, shard_head
from lzero.train.ranks.stored import own_parts
from lzero.train.ranks.weights import ShardedWeights
from lzero.train.ranks.wire import Arrays, from_scored
from lzero.train.state import state_tensors
from lzero.train.trainer import Trainer
from lzero.train.ulysses import share_rows
from lzero.train.update import step_metrics
from lzero.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_member(config: Config, group: Group, *, checkpoint: Path | None = None) -> tuple[Member, Progress]:
    """Load this rank's part of everything. All ranks call it at the same time. Raises ModelError, StoreError or ConfigError."""
    sharding = Sharding(
        dtype=getattr(torch, config.model.dtype), offload=config.train.offload, reshard=config.train.reshard
    )
    neighbours = group.neighbours(config.train.sequence_ranks) if config.train.sequence_ranks > 1 else None

    def divided(model: "PreTrainedModel", *, learns: bool) -> "PreTrainedModel":
        sharded = shard(made_trainable(model, config) if learns else model, group.mesh, sharding)
        if neighbours is not None:
            share_rows(sharded, neighbours)
        return sharded

    def load(directory: Path, *, learns: bool) -> "PreTrainedModel":
        return load_parts(
            directory,
            dtype="float32" if learns else config.model.dtype,
            device="cpu" if config.train.offload else str(group.device),
            prepare=partial(divided, learns=learns),
        )

    trainer, progress = Trainer.build(
        config, checkpoint=checkpoint, load=load, shard_head=lambda head: shard_head(head, group.mesh, sharding)
    )
    return Member(group=group, trainer=trainer), progress


@dataclass(frozen=True, kw_only=True)
class RankTrainer(Trainer):
    """The trainer of rank 0. All ranks make its passes, each with its part of the samples."""

    crew: Crew

    @classmethod
    def of(cls, member: Member) -> Self:
        return cls(**vars(member.trainer), crew=Crew(member.group, member))

    def logprobs(
        self, samples: Sequence[Sample], layout: Layout, *, of: Literal["policy", "reference"] = "policy"
    ) -> list[tuple[float, ...]]:
        return self._scores(samples, layout, of)

    def values(self, samples: Sequence[Sample], layout: Layout) -> list[tuple[float, ...]]:
        return self._scores(samples, layout, "critic")

    def _scores(
        self, samples: Sequence[Sample], layout: Layout, of: Literal["policy", "reference", "critic"]
    ) -> list[tuple[float, ...]]:
        shares = self._divided(samples, layout)
        rows = [unscored(sample) for sample in samples]
        answers = self.crew.run(
            Score(of=of, **vars(layout)),
            [
                from_scored([rows[index] for index in share], [rows[index].advantages for index in share])
                for share in shares
            ],
        )
        found: list[tuple[float, ...]] = [()] * len(samples)
        for share, (_, arrays) in zip(shares, answers, strict=True):
            values = iter(arrays["scores"].tolist())
            for index in share:
                found[index] = tuple(islice(values, len(samples[index].token_ids)))
        return found

    def weights(self) -> ShardedWeights:
        return ShardedWeights(self.model, lead=lambda: self.crew.given(Send()))

    def snapshot(self, progress: Progress, score: float | None) -> Snapshot:
        """Return copies of all weights and of this rank's part of the rest, for a checkpoint. The other ranks copy their parts."""
        group, number = self.crew.group, self.crew.number
        with closing(iter(self.weights())) as tensors:
            weights = {name: tensor.to("cpu", copy=True) for name, tensor in tensors}
        with self.crew.given(Keep(number=number)):
            parts = own_parts(state_tensors(self.model, self.all_optimizers, critic=self.critic_model), first=True)
        return Snapshot(
            model=skeleton(self.model, dtype=self.config.model.dtype),
            tokenizer=self.tokenizer,
            weights=weights,
            state=ShardedState(parts, group, number=number, wait_s=group.start.timeout_s),
            config=self.config,
            progress=progress,
            score=score,
        )

    def _learn(self, part: Sequence[Scored], *, lags: bool) -> Metrics:
        order = Step(lr=float(self.optimizers[0].param_groups[0]["lr"]), lags=lags)
        answers = self.crew.run(order, self._shares(part))
        answers = answers[:: self.config.train.sequence_ranks]  # ranks that share rows report the same
        facts = answers[0][0]
        if facts.skipped:
            raise NotFinite(facts.skipped)
        return combined(metrics_of(answers)) | step_metrics(batches_of(answers), loss=facts.loss, norm=facts.norm)

    def learn_values(self, part: Sequence[Scored]) -> Metrics:
        answers = self.crew.run(LearnValues(), self._shares(part))
        if answers[0][0].skipped:
            raise NotFinite(answers[0][0].skipped)
        return combined(metrics_of(answers))

    def _shares(self, part: Sequence[Scored]) -> list[Arrays]:
        """Return each rank's samples, with weights over the whole step."""
        samples = [row.sample for row in part]
        weights = weigh(samples, average=self.config.algo.average, constant=self.constant)
        return [
            from_scored([part[index] for index in share], [weights[index] for index in share])
            for share in self._divided(samples, self.layout)
        ]

    def _divided(self, samples: Sequence[Sample], layout: Layout) -> list[list[int]]:
        """Return the indices of the samples of each rank; neighbours that share rows have the same."""
        each = self.config.train.sequence_ranks
        shares = divide(samples, layout, parts=self.crew.group.size // each, width=self.model.config.hidden_size)
        return [share for share in shares for _ in range(each)]
