"""Samples in, tensors out: sequences share a micro-batch, and only action tokens are computed on.

    padded    a sequence a row, rows of like length together, padding on the right: no real token sees it, as attention is causal
    packed    all sequences in one row, positions counted anew in each: none sees another, and nothing is padded

What an action token weighs in the loss is settled here, over the *whole* update (`weigh`). So every term of a loss is a sum over
tokens, micro-batches add up to the batch, and how sequences are spread over them changes the cost of an update, never its gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Literal

import torch
from torch import Tensor

from lzero.types import Sample

Average = Literal["token", "step", "episode", "constant"]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A sample with what training needs to know of each of its tokens; all of one length, checked.

    token_ids             1   2   3   4   5   6
    mask                  0   0   1   1   0   1
    advantages            0   0  .7  .7   0  -.7    the advantage of the token's step
    reference_logprobs    0   0 -.2 -2.   0 -.4     of the initial policy, under the sample's temperature
    old_logprobs          0   0 -.1 -2.   0 -.5     of the trainer's policy before the update, likewise
    """

    sample: Sample
    advantages: tuple[float, ...]
    reference_logprobs: tuple[float, ...]
    old_logprobs: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = (self.sample.token_ids, self.advantages, self.reference_logprobs, self.old_logprobs)
        lengths = {len(column) for column in columns}
        if len(lengths) != 1:
            raise ValueError(
                f"Scored sample of {self.sample.episode_id}: columns of different lengths {sorted(lengths)}"
            )


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward and backward pass works on: R rows of L tokens, N action tokens.

    From `targets` on, the tensors have shape [N]: one element an action token, sequences in order, tokens in order.
    """

    token_ids: Tensor
    """[R, L] int64, padded with 0."""
    position_ids: Tensor | None
    """[1, L] int64, from 0 in each sequence, where they are packed in one row; None where every row is a sequence."""
    predictors: Tensor
    """Where, in the flattened [R·L] hidden states, the one is that predicts the action token: the position before it."""
    targets: Tensor
    """Ids of the action tokens."""
    steps: Tensor
    """Which step of this micro-batch the token belongs to, counted from 0."""
    episodes: Tensor
    """Which episode of this micro-batch, counted from 0."""
    temperatures: Tensor
    logprobs: Tensor
    """Of the sampler."""
    old_logprobs: Tensor
    """Of the trainer, before the update."""
    reference_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    """What the token's share of the loss is multiplied with; over the whole update they add up to 1 (but for "constant")."""

    def to(self, device: torch.device) -> "MicroBatch":
        """The same, with all tensors there."""
        moved = {name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None}
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything of one optimiser step."""

    micro_batches: tuple[MicroBatch, ...]
    num_action_tokens: int
    num_tokens: int
    """Real tokens, padding apart."""
    num_padded: int
    """Tokens computed on, padding included."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a batch is laid out; nothing of it changes a gradient."""

    max_tokens: int
    """Of one micro-batch, padding included; a longer sequence stands alone."""
    packed: bool = False
    whole_episodes: bool = False
    """Keep an episode's sequences in one micro-batch, as a ratio over episodes needs."""


def step_advantages(sample: Sample, advantages: Sequence[float]) -> tuple[float, ...]:
    """Spread an episode's advantages, one a step, over a sample's tokens: 0 where the policy did not act."""
    return tuple(advantages[step] if step >= 0 else 0.0 for step in sample.step_index)


def unscored(sample: Sample, *, advantage: float = 0.0) -> Scored:
    """A sample without a reference or a past, every action of the same advantage: to be scored, or imitated."""
    zeros = (0.0,) * len(sample.token_ids)
    advantages = tuple(advantage * on for on in sample.mask)
    return Scored(sample=sample, advantages=advantages, reference_logprobs=zeros, old_logprobs=zeros)


def weigh(samples: Sequence[Sample], *, average: Average, constant: float = 1.0) -> list[tuple[float, ...]]:
    """What every token weighs, 0 where the policy did not act, over the whole update: a mean over its action tokens ("token", L0's), over
    its steps ("step"), its episodes ("episode", GRPO's; of each step or episode the mean over its tokens), or a sum over
    tokens divided by the episodes times `constant` ("constant", Dr. GRPO's). Never over rows: an episode whose context was
    trimmed has several, and counts once.
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
    """What each action token is averaged within, None for the other tokens."""
    if average == "token":
        return ["the batch" if step >= 0 else None for step in sample.step_index]
    if average == "step":
        return [(sample.episode_id, step) if step >= 0 else None for step in sample.step_index]
    return [sample.episode_id if step >= 0 else None for step in sample.step_index]


def plan(samples: Sequence[Sample], layout: Layout) -> list[list[int]]:
    """Indices of samples for each micro-batch: longest first, each within the layout's tokens.

    Longest first, so that a run that will not fit in memory fails at once. Ties keep the order given.
    """
    lengths = [len(sample.token_ids) for sample in samples]
    units = _episodes(samples) if layout.whole_episodes else [[index] for index in range(len(samples))]
    units.sort(key=lambda unit: -max(lengths[index] for index in unit))
    micro_batches: list[list[int]] = []
    for unit in units:
        if (
            micro_batches
            and num_computed([lengths[index] for index in micro_batches[-1] + unit], layout) <= layout.max_tokens
        ):
            micro_batches[-1] += unit
        else:
            micro_batches.append(list(unit))
    return micro_batches


def _episodes(samples: Sequence[Sample]) -> list[list[int]]:
    units: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        units.setdefault(sample.episode_id, []).append(index)
    return list(units.values())


def num_computed(lengths: Sequence[int], layout: Layout) -> int:
    """Tokens that a micro-batch of sequences of these lengths computes on."""
    return sum(lengths) if layout.packed else max(lengths) * len(lengths)


def collate(scored: Sequence[Scored], layout: Layout, *, average: Average = "token", constant: float = 1.0) -> Batch:
    """A whole optimiser step as tensors (float64 numbers; the loss casts).

    Raises ValueError for a sample that begins with an action token (nothing predicts it), that was sampled at temperature 0
    (it has no distribution to train under), and for a batch without any action token.
    """
    samples = [row.sample for row in scored]
    for sample in samples:
        _check(sample)
    num_action_tokens = sum(sum(sample.mask) for sample in samples)
    if num_action_tokens == 0:
        raise ValueError(f"a batch of {len(scored)} samples has no action token to train on")
    weights = weigh(samples, average=average, constant=constant)
    chosen = plan(samples, layout)
    return Batch(
        micro_batches=tuple(
            lay_out([scored[index] for index in rows], [weights[index] for index in rows], packed=layout.packed)
            for rows in chosen
        ),
        num_action_tokens=num_action_tokens,
        num_tokens=sum(len(sample.token_ids) for sample in samples),
        num_padded=sum(num_computed([len(samples[index].token_ids) for index in rows], layout) for rows in chosen),
    )


def _check(sample: Sample) -> None:
    if sample.mask and sample.mask[0]:
        raise ValueError(f"sample of {sample.episode_id} begins with an action token: no token before predicts it")
    if sample.temperature <= 0:
        raise ValueError(f"sample of {sample.episode_id}: temperature {sample.temperature} has no log-probabilities")


def lay_out(rows: Sequence[Scored], weights: Sequence[Sequence[float]], *, packed: bool = False) -> MicroBatch:
    """One micro-batch of all `rows`, in their order."""
    samples = [row.sample for row in rows]
    lengths = [len(sample.token_ids) for sample in samples]
    width = max(lengths)
    starts = [0, *accumulate(lengths)] if packed else [number * width for number in range(len(rows))]
    token_ids = torch.zeros(sum(lengths) if packed else width * len(rows), dtype=torch.int64)
    for start, sample in zip(starts, samples, strict=False):
        token_ids[start : start + len(sample.token_ids)] = torch.tensor(sample.token_ids, dtype=torch.int64)
    position_ids = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0) if packed else None
    actions = [
        (number, position) for number, sample in enumerate(samples) for position, on in enumerate(sample.mask) if on
    ]
    places = torch.tensor([starts[number] + position for number, position in actions], dtype=torch.int64)

    def column(values: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor([values[number][position] for number, position in actions], dtype=torch.float64)

    return MicroBatch(
        token_ids=token_ids.unsqueeze(0) if packed else token_ids.view(len(rows), width),
        position_ids=position_ids,
        predictors=places - 1,
        targets=token_ids[places],
        steps=_numbered([(samples[number].episode_id, samples[number].step_index[place]) for number, place in actions]),
        episodes=_numbered([samples[number].episode_id for number, _ in actions]),
        temperatures=torch.tensor([samples[number].temperature for number, _ in actions], dtype=torch.float64),
        logprobs=column([sample.logprobs for sample in samples]),
        old_logprobs=column([row.old_logprobs for row in rows]),
        reference_logprobs=column([row.reference_logprobs for row in rows]),
        advantages=column([row.advantages for row in rows]),
        weights=column(weights),
    )


def _numbered(owners: Sequence[object]) -> Tensor:
    numbers: dict[object, int] = {}
    return torch.tensor([numbers.setdefault(owner, len(numbers)) for owner in owners], dtype=torch.int64)
