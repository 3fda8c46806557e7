"""Collate samples into tensors: sequences share a micro-batch, and logits are computed for action tokens only.

`lzero.algo.layout` decides which sequences share a row. `weigh` decides what an action token weighs in the loss, over *all* tokens that an
optimiser step learns from. So every term of a loss is a sum over tokens, and micro-batches add up to the minibatch. How sequences are
distributed over micro-batches changes the cost of the step, never its gradient.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress
from typing import Literal, TypeVar

import torch
from torch import Tensor

from lzero.algo.credit import TokenValues
from lzero.algo.layout import Layout, Packing, Row, num_computed, paths, plan
from lzero.types import Sample

Average = Literal["token", "step", "episode", "constant"]
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A sample with the numbers that training needs for each of its tokens. All columns have the same length, which is checked.

    token_ids             1   2   3   4   5   6
    mask                  0   0   1   1   0   1
    advantages            0   0  .7  .7   0  -.7    the advantage of the token's step
    reference_logprobs    0   0 -.2 -2.   0 -.4     of the initial policy, under the sample's temperature
    old_logprobs          0   0 -.1 -2.   0 -.5     of the trainer's policy before the update, or the sampler's, likewise
    """

    sample: Sample
    advantages: tuple[float, ...]
    reference_logprobs: tuple[float, ...]
    old_logprobs: tuple[float, ...]
    values: tuple[float, ...] | None = None
    """The critic's values before the update; None without a critic."""
    value_targets: tuple[float, ...] | None = None
    """The numbers that the critic learns to predict."""

    def __post_init__(self) -> None:
        columns = (self.sample.token_ids, self.advantages, self.reference_logprobs, self.old_logprobs)
        lengths = {len(column) for column in (*columns, self.values, self.value_targets) if column is not None}
        if len(lengths) != 1:
            raise ValueError(
                f"Scored sample of {self.sample.episode_id}: columns of different lengths {sorted(lengths)}"
            )


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The input of one forward and backward pass: R rows of L tokens, N action tokens.

    From `predictors` on, the tensors have shape [N]: one element for each action token, in the order of sequences and tokens.
    """

    token_ids: Tensor
    """[R, L] int64, padded with 0."""
    position_ids: Tensor | None
    """[R, L] int64, from 0 in each sequence; None if every row is one sequence."""
    seen_until: Tensor | None
    """[R, L] int64, if rows are trees: the place in the row from which on no token sees this one. Until there, all that follow it do.
    None if that follows from the positions."""
    predictors: Tensor
    """Index in the flattened [R·L] hidden states of the state that predicts the action token: that of the token before it."""
    targets: Tensor
    """Ids of the action tokens."""
    steps: Tensor
    """Index of the token's step in this micro-batch, from 0."""
    episodes: Tensor
    """Index of the token's episode in this micro-batch, from 0."""
    temperatures: Tensor
    versions: Tensor
    """Policy version that drew the token (int64)."""
    logprobs: Tensor
    """Log-probabilities under the sampler's policy."""
    old_logprobs: Tensor
    """Log-probabilities under the trainer's policy before the update; with `rollout.max_lag`, under the sampler's."""
    reference_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    """Weight of the token in the loss. Over the optimiser step the weights add up to 1 (except for "constant")."""
    values: Tensor | None = None
    """The critic's values before the update, of the state before each action token; None without a critic."""
    value_targets: Tensor | None = None
    """The numbers that the critic learns to predict."""

    def to(self, device: torch.device) -> "MicroBatch":
        """Return a copy with all tensors on the device."""
        moved = {name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None}
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The data of one optimiser step."""

    micro_batches: tuple[MicroBatch, ...]
    num_action_tokens: int
    num_tokens: int
    """Tokens of all sequences."""
    num_distinct: int
    """Tokens of all sequences, with shared ones counted once."""
    num_computed: int
    """Tokens that the model computes: the distinct ones, and padding."""


def step_advantages(sample: Sample, advantages: Sequence[float]) -> tuple[float, ...]:
    """Return for each token of a sample the advantage of its step; 0 for tokens that the policy did not sample."""
    return tuple(advantages[step] if step >= 0 else 0.0 for step in sample.step_index)


def of_tokens(sample: Sample, numbers: TokenValues) -> tuple[float, ...]:
    """Return for each token of a sample its number among those of its step; 0 for tokens that the policy did not sample."""
    of_steps = {step: iter(numbers[step]) for step in set(sample.step_index) if step >= 0}
    return tuple(next(of_steps[step]) if step >= 0 else 0.0 for step in sample.step_index)


def unscored(sample: Sample, *, advantage: float = 0.0) -> Scored:
    """Return a sample without reference and old log-probabilities, with one advantage for all actions: for scoring or imitation."""
    zeros = (0.0,) * len(sample.token_ids)
    advantages = tuple(advantage * on for on in sample.mask)
    return Scored(sample=sample, advantages=advantages, reference_logprobs=zeros, old_logprobs=zeros)


def weigh(samples: Sequence[Sample], *, average: Average, constant: float = 1.0) -> list[tuple[float, ...]]:
    """Return the weight of every token over the minibatch; 0 for tokens that the policy did not sample.

    The loss is a mean over action tokens ("token", L0's), over steps ("step") or over episodes ("episode", GRPO's), where a step or an
    episode counts with the mean of its tokens; or a sum over tokens, divided by the number of episodes times `constant` ("constant", Dr.
    GRPO's). It is never a mean over rows: an episode with a trimmed context has several, and counts once.
    """
    owners = [_owners(sample, average) for sample in samples]
    counts: dict[object, int] = {}
    for owner in chain.from_iterable(owners):
        if owner is not None:
            counts[owner] = counts.get(owner, 0) + 1
    shares = {
        owner: 1.0 / (len(counts) * (constant if average == "constant" else count)) for owner, count in counts.items()
    }
    return [tuple(0.0 if owner is None else shares[owner] for owner in own) for own in owners]


def _owners(sample: Sample, average: Average) -> list[object]:
    """Return for each action token the unit over which it is averaged; None for other tokens."""
    if average == "token":
        return ["the batch" if step >= 0 else None for step in sample.step_index]
    if average == "step":
        return [(sample.episode_id, step) if step >= 0 else None for step in sample.step_index]
    return [sample.episode_id if step >= 0 else None for step in sample.step_index]


def collate(scored: Sequence[Scored], layout: Layout, *, average: Average = "token", constant: float = 1.0) -> Batch:
    """Return the tensors of a whole optimiser step (float64 numbers; the loss casts them).

    Raises ValueError for a sample that begins with an action token (no token predicts it) or was sampled at temperature 0 (it has no
    distribution to train), and for a batch without action tokens.
    """
    samples = [row.sample for row in scored]
    if not any(any(sample.mask) for sample in samples):
        raise ValueError(f"a batch of {len(scored)} samples has no action token to train on")
    return lay_out_all(scored, weigh(samples, average=average, constant=constant), layout)


def lay_out_all(scored: Sequence[Scored], weights: Sequence[Sequence[float]], layout: Layout) -> Batch:
    """Return the micro-batches of samples that are all, or one rank's part, of an optimiser step; `weights` are over the whole step."""
    samples = [row.sample for row in scored]
    chosen = plan(samples, layout)
    return Batch(
        micro_batches=tuple(lay_out(scored, weights, rows, packing=layout.packing) for rows in chosen),
        num_action_tokens=sum(sum(sample.mask) for sample in samples),
        num_tokens=sum(len(sample.token_ids) for sample in samples),
        num_distinct=sum(row.length for rows in chosen for row in rows),
        num_computed=sum(num_computed(rows, layout) for rows in chosen),
    )


def anchor() -> MicroBatch:
    """Return a row of two tokens and weight 0: a pass for a rank that has no more rows while others do."""
    sample = Sample(
        episode_id="", token_ids=(0, 0), mask=(0, 1), step_index=(-1, 0), logprobs=(0.0, 0.0), versions=(-1, 0), temperature=1.0
    )  # fmt: skip
    return lay_out([unscored(sample)], [(0.0, 0.0)], [Row(members=(0,), length=2)])


def _check(sample: Sample) -> None:
    if sample.mask and sample.mask[0]:
        raise ValueError(f"sample of {sample.episode_id} begins with an action token: no token before predicts it")
    if sample.temperature <= 0:
        raise ValueError(f"sample of {sample.episode_id}: temperature {sample.temperature} has no log-probabilities")


def lay_out(
    scored: Sequence[Scored], weights: Sequence[Sequence[float]], rows: Sequence[Row], *, packing: Packing = "padded"
) -> MicroBatch:
    """Return the micro-batch of these rows, whose members are indices of `scored` and `weights`."""
    width = max(row.length for row in rows)
    members = [index for row in rows for index in row.members]
    samples = [scored[index].sample for index in members]
    for sample in samples:
        _check(sample)
    in_rows = [paths([scored[index].sample.token_ids for index in row.members], packing) for row in rows]
    places = [[number * width + place for place in path] for number, row in enumerate(in_rows) for path in row]
    before = [[-1, *path[:-1]] for path in places]
    token_ids, position_ids = torch.zeros((2, len(rows) * width), dtype=torch.int64)
    every = _integers(chain.from_iterable(places))
    token_ids[every] = _integers(chain.from_iterable(sample.token_ids for sample in samples))
    position_ids[every] = _integers(chain.from_iterable(range(len(path)) for path in places))
    several = any(len(row.members) > 1 for row in rows)
    actions = list(chain.from_iterable(sample.mask for sample in samples))

    def acted(values: Iterable[Sequence[Value]]) -> list[Value]:
        """Return the values of the action tokens. `values`: for each sequence, a value for each token."""
        return list(compress(chain.from_iterable(values), actions))

    def column(values: Iterable[Sequence[float]]) -> Tensor:
        return torch.tensor(acted(values), dtype=torch.float64)

    def of_critic(name: str) -> Tensor | None:
        values = [getattr(scored[index], name) for index in members]
        return None if None in values else column(values)

    owners = acted([(sample.episode_id, step) for step in sample.step_index] for sample in samples)
    return MicroBatch(
        token_ids=token_ids.view(len(rows), width),
        position_ids=position_ids.view(len(rows), width) if several else None,
        seen_until=_seen_until(in_rows, width) if several and packing == "tree" else None,
        predictors=_integers(acted(before)),
        targets=token_ids[_integers(acted(places))],
        steps=_numbered(owners),
        episodes=_numbered(episode for episode, _ in owners),
        temperatures=column([sample.temperature] * len(sample.token_ids) for sample in samples),
        versions=_integers(acted(sample.versions for sample in samples)),
        logprobs=column(sample.logprobs for sample in samples),
        old_logprobs=column(scored[index].old_logprobs for index in members),
        reference_logprobs=column(scored[index].reference_logprobs for index in members),
        advantages=column(scored[index].advantages for index in members),
        weights=column(weights[index] for index in members),
        values=of_critic("values"),
        value_targets=of_critic("value_targets"),
    )


def _integers(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _seen_until(rows: Sequence[Sequence[Sequence[int]]], width: int) -> Tensor:
    """Return [R, L] int64: the place from which on no path goes through a token. Padding is seen by the padding after it.

    The paths of a row come in an order in which no path returns to a token that one before it has left.
    """
    until = torch.full((len(rows), width), width, dtype=torch.int64)
    for row, in_row in zip(until, rows, strict=True):
        length = 0
        before: Sequence[int] = []
        for path in in_row:
            shared = sum(place < length for place in path)
            row[_integers(before[shared:])] = length
            length, before = length + len(path) - shared, path
        row[_integers(before)] = length
    return until


def _numbered(owners: Iterable[object]) -> Tensor:
    """Return the owners as numbers from 0, in the order of their first occurrence."""
    numbers: dict[object, int] = {}
    return _integers(numbers.setdefault(owner, len(numbers)) for owner in owners)
