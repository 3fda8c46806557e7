"""Samples in, tensors out: rows of similar length share a micro-batch, and only action tokens are computed on.

Rows are padded on the right. Under causal attention no real token sees the padding behind it, so a micro-batch needs no
attention mask, and what follows a row's last token is never looked at. How rows are spread over micro-batches changes the
cost of an update and never its gradient: every term is divided by the action tokens of the *whole* update.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lzero.types import Sample


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A sample with what training needs to know of each of its tokens; all of one length, checked.

    token_ids             1   2   3   4   5   6
    mask                  0   0   1   1   0   1
    advantages            0   0  .7  .7   0  -.7    the advantage of the token's step
    reference_logprobs    0   0 -.2 -2.   0 -.4     of the initial policy, under the sample's temperature
    """

    sample: Sample
    advantages: tuple[float, ...]
    reference_logprobs: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.sample.token_ids), len(self.advantages), len(self.reference_logprobs)}
        if len(lengths) != 1:
            raise ValueError(
                f"Scored sample of {self.sample.episode_id}: columns of different lengths {sorted(lengths)}"
            )


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward and backward pass works on: R rows of L tokens, N action tokens.

    The other tensors have shape [N]: one element an action token, rows in order, tokens in order.
    """

    token_ids: Tensor
    """[R, L] int64, padded with 0."""
    predictors: Tensor
    """Where, in the flattened [R·L] hidden states, the one is that predicts the action token: the position before it."""
    targets: Tensor
    """Ids of the action tokens."""
    temperatures: Tensor
    logprobs: Tensor
    """Of the sampler."""
    reference_logprobs: Tensor
    advantages: Tensor

    def to(self, device: torch.device) -> "MicroBatch":
        return MicroBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything of one update."""

    micro_batches: tuple[MicroBatch, ...]
    num_action_tokens: int
    """Of the whole update, whatever the number of micro-batches: what every loss term is divided by."""
    num_tokens: int
    """Real tokens, padding apart."""
    num_padded: int
    """Tokens computed on, padding included."""


def step_advantages(sample: Sample, advantages: Sequence[float]) -> tuple[float, ...]:
    """Spread an episode's advantages, one a step, over a sample's tokens: 0 where the policy did not act."""
    return tuple(advantages[step] if step >= 0 else 0.0 for step in sample.step_index)


def unscored(sample: Sample, *, advantage: float = 0.0) -> Scored:
    """A sample without a reference, every action of the same advantage: to be scored, or imitated."""
    zeros = (0.0,) * len(sample.token_ids)
    return Scored(sample=sample, advantages=tuple(advantage * on for on in sample.mask), reference_logprobs=zeros)


def plan_rows(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Indices of rows for each micro-batch: longest first, each within `max_tokens` padded tokens (a longer row stands alone).

    Longest first, so that a run that will not fit in memory fails at once. Ties keep the order given.
    """
    plan: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not plan or lengths[plan[-1][0]] * (len(plan[-1]) + 1) > max_tokens:
            plan.append([])
        plan[-1].append(index)
    return plan


def collate(scored: Sequence[Scored], *, max_tokens: int) -> Batch:
    """The whole update as tensors (float64 numbers; the loss casts), micro-batches of at most `max_tokens` padded tokens.

    Raises ValueError for a sample that begins with an action token (nothing predicts it), that was sampled at temperature 0
    (it has no distribution to train under), and for a batch without any action token.
    """
    for row in scored:
        _check(row.sample)
    lengths = [len(row.sample.token_ids) for row in scored]
    plan = plan_rows(lengths, max_tokens=max_tokens)
    num_action_tokens = sum(sum(row.sample.mask) for row in scored)
    if num_action_tokens == 0:
        raise ValueError(f"a batch of {len(scored)} samples has no action token to train on")
    return Batch(
        micro_batches=tuple(pad([scored[index] for index in rows]) for rows in plan),
        num_action_tokens=num_action_tokens,
        num_tokens=sum(lengths),
        num_padded=sum(len(rows) * lengths[rows[0]] for rows in plan),
    )


def _check(sample: Sample) -> None:
    if sample.mask and sample.mask[0]:
        raise ValueError(f"sample of {sample.episode_id} begins with an action token: no token before predicts it")
    if sample.temperature <= 0:
        raise ValueError(f"sample of {sample.episode_id}: temperature {sample.temperature} has no log-probabilities")


def pad(rows: Sequence[Scored]) -> MicroBatch:
    """One micro-batch of all `rows`, in their order."""
    width = max(len(row.sample.token_ids) for row in rows)
    token_ids = [list(row.sample.token_ids) + [0] * (width - len(row.sample.token_ids)) for row in rows]
    actions = [
        (number, position) for number, row in enumerate(rows) for position, on in enumerate(row.sample.mask) if on
    ]

    def column(values: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor([values[number][position] for number, position in actions], dtype=torch.float64)

    return MicroBatch(
        token_ids=torch.tensor(token_ids, dtype=torch.int64),
        predictors=torch.tensor([number * width + position - 1 for number, position in actions], dtype=torch.int64),
        targets=torch.tensor([token_ids[number][position] for number, position in actions], dtype=torch.int64),
        temperatures=torch.tensor([rows[number].sample.temperature for number, _ in actions], dtype=torch.float64),
        logprobs=column([row.sample.logprobs for row in rows]),
        reference_logprobs=column([row.reference_logprobs for row in rows]),
        advantages=column([row.advantages for row in rows]),
    )
