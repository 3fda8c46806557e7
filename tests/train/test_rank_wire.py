"""Samples and arrays arrive as they were sent."""

import pytest
import torch
from plain_gradient import random_groups

from lzero.algo.batches import Scored
from lzero.algo.samples import to_samples
from lzero.train.ranks.wire import from_bytes, from_scored, to_bytes, to_scored


def test_samples_arrive_as_they_were_sent() -> None:
    samples = [sample for group in random_groups(0) for episode in group.episodes for sample in to_samples(episode)]
    scored = [
        Scored(
            sample=sample,
            advantages=tuple(0.1 * on for on in sample.mask),
            reference_logprobs=sample.logprobs,
            old_logprobs=tuple(2 * value for value in sample.logprobs),
        )
        for sample in samples
    ]
    weights = [tuple(on / 7 for on in sample.mask) for sample in samples]
    arrived, their_weights = to_scored(from_bytes(*to_bytes(from_scored(scored, weights))))
    assert their_weights == weights
    names = {row.sample.episode_id: its.sample.episode_id for row, its in zip(scored, arrived, strict=True)}
    assert len(set(names.values())) == len(names)
    for row, its in zip(scored, arrived, strict=True):
        assert (its.advantages, its.reference_logprobs, its.old_logprobs) == (
            row.advantages,
            row.reference_logprobs,
            row.old_logprobs,
        )
        for field in ("token_ids", "mask", "step_index", "logprobs", "versions", "temperature"):
            assert getattr(its.sample, field) == getattr(row.sample, field)


def test_nothing_arrives_as_nothing() -> None:
    assert to_scored(from_bytes(*to_bytes(from_scored([], [])))) == ([], [])
    assert from_bytes(*to_bytes({})) == {}


def test_a_message_of_another_length_is_refused() -> None:
    shapes, data = to_bytes({"a": torch.ones(3)})
    with pytest.raises(ValueError, match="11 bytes"):
        from_bytes(shapes, data[:11])
