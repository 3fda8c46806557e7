"""Weights from the trainer to the engine, and the probe that shows they arrived.

A weight sync can answer "done" and be wrong: a layer keeps a packed copy, a name does not match. So after each one the same
token ids are scored on both sides, and a gap stops the run with both numbers.
"""

import math
import random
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from lzero.algo.layout import Layout
from lzero.errors import TrainError
from lzero.train.score import sample_logprobs
from lzero.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS = 32
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Largest gap of a log-probability (nats) that rounding explains, by the type of the weights."""


class LoadingEngine(Protocol):
    """What a transfer needs of an engine."""

    def load(self, state_dict: Mapping[str, Tensor], version: int) -> Awaitable[None]:
        """Copy these weights between two forward passes; what is sampled from then on carries `version`."""

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]: ...


def probe_ids(vocabulary_size: int) -> tuple[int, ...]:
    """The fixed prompt that both sides score: ids spread over the vocabulary, the same ones in every run."""
    generator = random.Random(0)
    return tuple(generator.randrange(vocabulary_size) for _ in range(PROBE_TOKENS))


async def transfer(model: "PreTrainedModel", engine: LoadingEngine, *, version: int) -> float:
    """Have `engine` sample from the weights of `model`, as policy `version`; returns the probe's largest gap (nats).

    Raises TrainError if the two sides disagree on the probe. A sync that changes nothing is found once the policy has moved
    by more than the tolerance, which is at the first update for all but the smallest learning rates.
    """
    await engine.load(model.state_dict(), version)
    ids = probe_ids(model.config.vocab_size)
    ours, theirs = _score(model, ids), await engine.score(ids)
    gaps = [abs(own - other) for own, other in zip(ours, theirs, strict=True)]
    position = max(range(len(gaps)), key=lambda index: math.inf if math.isnan(gaps[index]) else gaps[index])
    if not gaps[position] <= TOLERANCE[model.dtype]:
        raise TrainError(
            f"the engine does not hold the trainer's weights: after the transfer of version {version} token {position} of the "
            f"probe has log-probability {ours[position]:.6f} in the trainer and {theirs[position]:.6f} in the engine "
            f"(tolerance {TOLERANCE[model.dtype]})"
        )
    return gaps[position]


def _score(model: "PreTrainedModel", ids: tuple[int, ...]) -> tuple[float, ...]:
    return sample_logprobs(model, [probe_sample(ids)], Layout(max_tokens=len(ids)))[0]


def probe_sample(ids: tuple[int, ...]) -> Sample:
    """All but the first of these tokens as an action."""
    rest = len(ids) - 1
    return Sample(
        episode_id="probe",
        token_ids=ids,
        mask=(0,) + (1,) * rest,
        step_index=(-1,) + (0,) * rest,
        logprobs=(0.0,) * len(ids),
        versions=(-1,) * len(ids),
        temperature=1.0,
    )
