"""Compute log-probabilities of sampled tokens in the trainer's own forward pass."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lzero.algo.batches import MicroBatch, anchor, lay_out, unscored
from lzero.algo.layout import Layout, plan
from lzero.algo.logprobs import token_logprobs
from lzero.train.attention.interface import Rows, rows_of
from lzero.train.policy import compute_spec, through_root
from lzero.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Agreed = Callable[[int], int]
"""Takes a rank's number of passes, and returns how many it makes: as many as the others of a sharded model."""


def predicting_states(model: "PreTrainedModel", rows: Rows) -> Tensor:
    """Return the hidden states [N, H] that predict this process's action tokens: those of the tokens before them."""
    hidden: Tensor = model.get_decoder()(**rows.inputs, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, rows.predictors)


def policy_logprobs(
    model: "PreTrainedModel", micro: MicroBatch, *, entropies: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return log-probabilities [N] of a micro-batch's action tokens at the sampling temperature and, on request, entropies [N] in nats.

    Both carry the gradient. Only hidden states that predict an action token pass through the output layer. Ranks that share rows compute a
    part of the tokens each, and exchange the results.
    """
    return through_root(model, _action_logprobs, micro, entropies=entropies)


def _action_logprobs(model: "PreTrainedModel", micro: MicroBatch, *, entropies: bool) -> tuple[Tensor, Tensor | None]:
    rows = rows_of(model, micro)
    states, head, own = predicting_states(model, rows), model.get_output_embeddings(), rows.actions
    targets, temperatures = (each if own is None else each[own] for each in (micro.targets, micro.temperatures))
    logprobs, found = token_logprobs(states, head, targets, temperatures, entropies=entropies)
    number = len(micro.targets)
    return rows.joined(logprobs, number), None if found is None else rows.joined(found, number)


def sample_logprobs(
    model: "PreTrainedModel", samples: Sequence[Sample], layout: Layout, *, agreed: Agreed = int
) -> list[tuple[float, ...]]:
    """Return log-probabilities of every sample's action tokens under `model` at the sample's temperature; 0 for other tokens. No
    gradient."""

    def compute(micro: MicroBatch) -> Tensor:
        return policy_logprobs(model, micro)[0]

    return per_token(compute, samples, layout, device=compute_spec(model).device, agreed=agreed)


def per_token(
    compute: Callable[[MicroBatch], Tensor],
    samples: Sequence[Sample],
    layout: Layout,
    *,
    device: torch.device,
    agreed: Agreed = int,
) -> list[tuple[float, ...]]:
    """Return for every sample what `compute` returns for its action tokens, [N] of a micro-batch; 0 for other tokens. No gradient."""
    scores: list[tuple[float, ...]] = [()] * len(samples)
    rows_to_score = [unscored(sample) for sample in samples]
    weights = [row.advantages for row in rows_to_score]
    chosen = plan(samples, layout)
    num_passes = agreed(len(chosen))
    with torch.no_grad():  # a sharded model could not learn from tensors of an inference mode
        for rows in chosen:
            micro = lay_out(rows_to_score, weights, rows, packing=layout.packing).to(device)
            values = iter(compute(micro).tolist())
            for index in (index for row in rows for index in row.members):
                scores[index] = tuple(next(values) if on else 0.0 for on in samples[index].mask)
        for _ in range(num_passes - len(chosen)):
            compute(anchor().to(device))
    return scores
