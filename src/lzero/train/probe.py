"""A fixed sequence that is scored in two ways which must agree: by trainer and engine, or in separate and shared rows."""

import random

import torch

from lzero.types import Sample

PROBE_TOKENS = 32
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Largest gap of a log-probability (nats) that rounding explains, by the type of the weights."""


def probe_ids(vocabulary_size: int) -> tuple[int, ...]:
    """Return ids spread over the vocabulary, the same in every run."""
    generator = random.Random(0)
    return tuple(generator.randrange(vocabulary_size) for _ in range(PROBE_TOKENS))


def probe_sample(ids: tuple[int, ...]) -> Sample:
    """Return a sample with all but the first of these tokens as one action."""
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
