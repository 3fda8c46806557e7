"""Compute log-probabilities of sampled tokens in the trainer's own forward pass."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lzero.algo.batches import MicroBatch, lay_out, unscored
from lzero.algo.layout import Layout, plan
from lzero.algo.logprobs import token_logprobs
from lzero.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def predicting_states(model: "PreTrainedModel", micro: MicroBatch) -> Tensor:
    """Return the hidden states [N, H] that predict the action tokens of a micro-batch: those of the tokens before them."""
    hidden: Tensor = model.get_decoder()(
        input_ids=micro.token_ids,
        position_ids=micro.position_ids,
        attention_mask=micro.attention_mask,
        use_cache=False,
    ).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, micro.predictors)


def policy_logprobs(
    model: "PreTrainedModel", micro: MicroBatch, *, entropies: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return log-probabilities [N] of a micro-batch's action tokens at the sampling temperature and, on request, entropies [N] in nats.

    Both carry the gradient. Only hidden states that predict an action token pass through the output layer. Without a mask, transformers
    recognises packed sequences by positions that restart.
    """
    states = predicting_states(model, micro)
    return token_logprobs(states, model.get_output_embeddings(), micro.targets, micro.temperatures, entropies=entropies)


def sample_logprobs(model: "PreTrainedModel", samples: Sequence[Sample], layout: Layout) -> list[tuple[float, ...]]:
    """Return log-probabilities of every sample's action tokens under `model` at the sample's temperature; 0 for other tokens. No
    gradient."""
    return per_token(lambda micro: policy_logprobs(model, micro)[0], samples, layout, device=model.device)


def per_token(
    compute: Callable[[MicroBatch], Tensor], samples: Sequence[Sample], layout: Layout, *, device: torch.device
) -> list[tuple[float, ...]]:
    """Return for every sample what `compute` returns for its action tokens, [N] of a micro-batch; 0 for other tokens. No gradient."""
    scores: list[tuple[float, ...]] = [()] * len(samples)
    rows_to_score = [unscored(sample) for sample in samples]
    weights = [row.advantages for row in rows_to_score]
    with torch.inference_mode():
        for rows in plan(samples, layout):
            micro = lay_out(rows_to_score, weights, rows, packing=layout.packing).to(device)
            values = iter(compute(micro).tolist())
            for index in (index for row in rows for index in row.members):
                scores[index] = tuple(next(values) if on else 0.0 for on in samples[index].mask)
    return scores
