"""The trainer of rank 0, whose passes all ranks make."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Self

from lzero.algo.batches import Scored, unscored, weigh
from lzero.algo.layout import Layout
from lzero.algo.metrics import Metrics, combined
from lzero.errors import NotFinite
from lzero.train.checkpoint import Progress, Snapshot
from lzero.train.lora import adapted_copies, adapted_layers
from lzero.train.ranks.balance import divide
from lzero.train.ranks.checkpoint import ShardedState
from lzero.train.ranks.dispatch import Dispatcher
from lzero.train.ranks.loading import skeleton
from lzero.train.ranks.member import Member
from lzero.train.ranks.orders import Answer, Keep, LearnPolicy, LearnValues, Score, Send, batches_of, metrics_of
from lzero.train.ranks.weights import ShardedWeights
from lzero.train.ranks.wire import Arrays, from_scored
from lzero.train.state import state_tensors
from lzero.train.stored import own_parts
from lzero.train.trainer import Trainer
from lzero.train.update import step_metrics
from lzero.types import Sample


@dataclass(frozen=True, kw_only=True)
class RankTrainer(Trainer):
    """The trainer of rank 0. All ranks make its passes, each with its part of the samples."""

    dispatcher: Dispatcher

    @classmethod
    def of(cls, member: Member) -> Self:
        return cls(**vars(member.trainer), dispatcher=Dispatcher(member.group, member))

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
        answers = self.dispatcher.run(
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
        dispatcher = self.dispatcher
        return ShardedWeights(self.model, lead=lambda only_adapter: dispatcher.given(Send(only_adapter=only_adapter)))

    def snapshot(self, progress: Progress, score: float | None) -> Snapshot:
        """Return copies of all weights and of this rank's part of the rest, for a checkpoint. The other ranks copy their parts."""
        group, number = self.dispatcher.group, self.dispatcher.number
        with closing(iter(self.weights())) as tensors:
            if adapted_layers(self.model):
                weights, adapter = adapted_copies(tensors, self.model)
            else:
                weights, adapter = {name: tensor.to("cpu", copy=True) for name, tensor in tensors}, None
        with self.dispatcher.given(Keep(number=number)):
            parts = own_parts(state_tensors(self.model, self.all_optimizers, critic=self.critic_model), first=True)
        return Snapshot(
            model=skeleton(self.model, dtype=self.config.model.dtype),
            tokenizer=self.tokenizer,
            weights=weights,
            state=ShardedState(parts, group, number=number, wait_s=group.start.timeout_s),
            config=self.config,
            progress=progress,
            score=score,
            adapter=adapter,
        )

    def _learn(self, part: Sequence[Scored], *, lags: bool) -> Metrics:
        order = LearnPolicy(lr=float(self.optimizers[0].param_groups[0]["lr"]), lags=lags)
        answers = self._distinct(self.dispatcher.run(order, self._shares(part)))
        facts = answers[0][0]
        if facts.skipped:
            raise NotFinite(facts.skipped)
        return combined(metrics_of(answers)) | step_metrics(batches_of(answers), loss=facts.loss, norm=facts.norm)

    def learn_values(self, part: Sequence[Scored]) -> Metrics:
        answers = self.dispatcher.run(LearnValues(), self._shares(part))
        if answers[0][0].skipped:
            raise NotFinite(answers[0][0].skipped)
        return combined(metrics_of(self._distinct(answers)))

    def _distinct(self, answers: list[Answer]) -> list[Answer]:
        """Return one answer of the ranks that share rows: they report the same."""
        return answers[:: self.config.train.sequence_ranks]

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
        shares = divide(samples, layout, parts=self.dispatcher.group.size // each, width=self.model.config.hidden_size)
        return [share for share in shares for _ in range(each)]
