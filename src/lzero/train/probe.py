"""Fixed token ids that are scored in two ways which must agree: by trainer and engine, or in separate and shared rows."""

import random
from collections.abc import Sequence

import torch

from lzero.types import Sample

PROBE_TOKENS = 32
STRETCH_TOKENS = 96
"""Tokens of a real episode: training depends on log-probabilities of such tokens."""
PREFIX_TOKENS, DRAWN_TOKENS = 256, 16
"""Tokens of a long prompt, and of its continuation. The prompt spans several blocks of a prefix cache, of up to 128 tokens each."""
TEMPERATURE = 0.7
"""Temperature of the continuation. At 1, log-probabilities with and without the temperature would be the same."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Type of the weights → the largest gap of a log-probability, in nats, that rounding explains."""
STILL = {torch.float32: 2e-5, torch.bfloat16: 0.05}
"""Type of the weights → the largest mean movement of log-probabilities, in nats, that may be rounding alone."""


class Probe:
    """Tokens that probe a transfer of weights. Each sequence has at most `max_tokens`."""

    def __init__(self, vocabulary_size: int, *, max_tokens: int) -> None:
        self._stretch: tuple[int, ...] = ()
        self._max_tokens = max_tokens
        self.num_drawn = max(1, min(DRAWN_TOKENS, max_tokens // 4))
        self.prefix = _spread(vocabulary_size, min(PREFIX_TOKENS, max_tokens - self.num_drawn), seed=1)
        self._ids = probe_ids(vocabulary_size)[:max_tokens]

    @property
    def texts(self) -> list[tuple[int, ...]]:
        """Sequences to score: the fixed one, then the stretch of a real episode, if there is one."""
        return [self._ids, *([self._stretch] if self._stretch else [])]

    def take_stretch(self, ids: Sequence[int]) -> None:
        """Probe with the beginning of this sequence, of a real episode, from now on."""
        if len(ids) > 1:
            self._stretch = tuple(ids[: min(STRETCH_TOKENS, self._max_tokens)])


def probe_ids(vocabulary_size: int) -> tuple[int, ...]:
    """Return ids spread over the vocabulary, the same in every run."""
    return _spread(vocabulary_size, PROBE_TOKENS, seed=0)


def sample_of(ids: Sequence[int]) -> Sample:
    """Return a sample with all but the first of these tokens as one action."""
    return _sample(ids, first=1, temperature=1.0)


def sample_after(prefix: Sequence[int], drawn: Sequence[int]) -> Sample:
    """Return a sample with the tokens after the prefix as one action, at the temperature of the probe."""
    return _sample((*prefix, *drawn), first=len(prefix), temperature=TEMPERATURE)


def _sample(ids: Sequence[int], *, first: int, temperature: float) -> Sample:
    rest = len(ids) - first
    return Sample(
        episode_id="probe",
        token_ids=tuple(ids),
        mask=(0,) * first + (1,) * rest,
        step_index=(-1,) * first + (0,) * rest,
        logprobs=(0.0,) * len(ids),
        versions=(-1,) * len(ids),
        temperature=temperature,
    )


def _spread(vocabulary_size: int, count: int, *, seed: int) -> tuple[int, ...]:
    generator = random.Random(seed)
    return tuple(generator.randrange(vocabulary_size) for _ in range(count))
