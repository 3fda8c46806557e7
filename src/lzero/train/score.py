"""Log-probabilities of what was sampled, by the trainer's own forward pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lzero.algo.batches import MicroBatch, pad, plan_rows, unscored
from lzero.algo.losses import token_logprobs
from lzero.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def policy_logprobs(model: "PreTrainedModel", micro: MicroBatch) -> Tensor:
    """Log-probabilities [N] of a micro-batch's action tokens under the sampling temperature; they carry the gradient.

    Only the hidden states that predict an action token pass through the output layer.
    """
    hidden: Tensor = model.get_decoder()(input_ids=micro.token_ids, use_cache=False).last_hidden_state
    states = hidden.flatten(0, 1).index_select(0, micro.predictors)
    return token_logprobs(states, model.get_output_embeddings(), micro.targets, micro.temperatures)


def reference_logprobs(
    model: "PreTrainedModel", samples: Sequence[Sample], *, max_tokens: int
) -> list[tuple[float, ...]]:
    """Log-probabilities of every sample's action tokens under `model` and the sample's temperature; 0 for the other tokens.

    No gradient. At most `max_tokens` tokens, padding included, are in one forward pass.
    """
    plan = plan_rows([len(sample.token_ids) for sample in samples], max_tokens=max_tokens)
    scores: list[tuple[float, ...]] = [()] * len(samples)
    with torch.inference_mode():
        for rows in plan:
            micro = pad([unscored(samples[row]) for row in rows]).to(model.device)
            values = iter(policy_logprobs(model, micro).tolist())
            for row in rows:
                scores[row] = tuple(next(values) if on else 0.0 for on in samples[row].mask)
    return scores
