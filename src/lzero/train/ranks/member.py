"""A rank's part of the models and the optimizer; and the trainer of rank 0, whose passes all ranks make."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Self

import torch

from lzero.algo.batches import Scored, unscored, weigh
from lzero.algo.layout import Layout
from lzero.algo.metrics import Metrics, combined
from lzero.config import Config
from lzero.errors import NotFinite
from lzero.train.checkpoint import Progress, Snapshot, random_state
from lzero.train.policy import placement
from lzero.train.ranks.balance import divide
from lzero.train.ranks.crew import Crew
from lzero.train.ranks.group import Group
from lzero.train.ranks.orders import Gather, Member, Score, Step, batches_of, metrics_of
from lzero.train.ranks.sharding import Sharding, shard
from lzero.train.ranks.wire import from_scored
from lzero.train.trainer import Trainer
from lzero.train.transfer import HeldWeights, WeightSource
from lzero.train.update import step_metrics
from lzero.types import Sample


def build_member(config: Config, group: Group, *, checkpoint: Path | None = None) -> tuple[Member, Progress]:
    """Load this rank's part of everything. All ranks call it at the same time. Raises ModelError, StoreError or ConfigError."""
    sharding = Sharding(
        dtype=getattr(torch, config.model.dtype), offload=config.train.offload, reshard=config.train.reshard
    )
    trainer, progress = Trainer.build(
        config, checkpoint=checkpoint, shard=lambda model: shard(model, group.mesh, sharding)
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
        shares = self._divided(samples, layout)
        rows = [unscored(sample) for sample in samples]
        order = Score(of=of, **vars(layout))
        answers = self.crew.run(
            order,
            [
                from_scored([rows[index] for index in share], [rows[index].advantages for index in share])
                for share in shares
            ],
        )
        found: list[tuple[float, ...]] = [()] * len(samples)
        for share, (_, arrays) in zip(shares, answers, strict=True):
            values = iter(arrays["logprobs"].tolist())
            for index in share:
                found[index] = tuple(islice(values, len(samples[index].token_ids)))
        return found

    def weights(self) -> WeightSource:
        dtype = str(placement(self.model).dtype).removeprefix("torch.")
        return HeldWeights(self.crew.run(Gather(dtype=dtype))[0][1].items())

    def snapshot(self, progress: Progress, score: float | None) -> Snapshot:
        dtype = str(self.model.dtype).removeprefix("torch.")
        tensors = self.crew.run(Gather(dtype=dtype, moments=True))[0][1]
        names = self.model.state_dict().keys()
        weights = {name: tensor for name, tensor in tensors.items() if name in names}
        state = {name: tensor for name, tensor in tensors.items() if name not in names}
        return Snapshot(
            model=self.model,
            tokenizer=self.tokenizer,
            weights=weights,
            state=state | random_state(),
            config=self.config,
            progress=progress,
            score=score,
        )

    def _step(self, part: Sequence[Scored], *, update: int, lags: bool) -> Metrics:
        algo = self.config.algo
        samples = [row.sample for row in part]
        weights = weigh(samples, average=algo.average, constant=self.constant)
        shares = [
            from_scored([part[index] for index in share], [weights[index] for index in share])
            for share in self._divided(samples, self.layout)
        ]
        answers = self.crew.run(Step(lr=float(self.optimizers[0].param_groups[0]["lr"]), lags=lags), shares)
        facts = answers[0][0]
        if facts.skipped:
            raise NotFinite(facts.skipped)
        return combined(metrics_of(answers)) | step_metrics(batches_of(answers), loss=facts.loss, norm=facts.norm)

    def _divided(self, samples: Sequence[Sample], layout: Layout) -> list[list[int]]:
        return divide(samples, layout, parts=self.crew.group.size, width=self.model.config.hidden_size)
