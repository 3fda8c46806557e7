"""Samples as arrays, arrays as bytes, and back. Nothing is pickled."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, pairwise

import torch
from msgspec import Struct
from torch import Tensor

from lzero.algo.batches import Scored
from lzero.types import Sample

TYPES = {str(kind).removeprefix("torch."): kind for kind in (torch.float64, torch.float32, torch.int64, torch.int8)}
Arrays = Mapping[str, Tensor]
OF_CRITIC = ("values", "value_targets")
"""Columns of `Scored` that are there only with a critic."""


class ArrayHeader(Struct, frozen=True):
    """Description of one array of a message."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        number = TYPES[self.dtype].itemsize
        for side in self.shape:
            number *= side
        return number


def to_bytes(arrays: Arrays) -> tuple[tuple[ArrayHeader, ...], Tensor]:
    """Return the description of some CPU arrays, and all of their bytes as one uint8 tensor."""
    headers = tuple(
        ArrayHeader(name, str(array.dtype).removeprefix("torch."), tuple(array.shape)) for name, array in arrays.items()
    )
    parts = [array.contiguous().flatten().view(torch.uint8) for array in arrays.values()]
    return headers, torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def from_bytes(headers: Sequence[ArrayHeader], data: Tensor) -> dict[str, Tensor]:
    """Return the arrays of a message. Raises ValueError if the bytes do not fit their description."""
    ends = list(accumulate((header.num_bytes for header in headers), initial=0))
    if ends[-1] != len(data):
        raise ValueError(f"a message of {len(data)} bytes has arrays of {ends[-1]}")
    return {
        header.name: data[start:end].clone().view(TYPES[header.dtype]).view(header.shape)
        for header, (start, end) in zip(headers, pairwise(ends), strict=True)
    }


def from_scored(scored: Sequence[Scored], weights: Sequence[Sequence[float]]) -> dict[str, Tensor]:
    """Return the columns of some samples, end to end. Episodes have numbers instead of ids."""
    samples = [row.sample for row in scored]
    numbers: dict[str, int] = {}

    def joined(columns: "Sequence[Sequence[float]]", dtype: torch.dtype) -> Tensor:
        return torch.tensor(list(chain.from_iterable(columns)), dtype=dtype)

    of_critic = {
        name: joined([getattr(row, name) for row in scored], torch.float64)
        for name in OF_CRITIC
        if all(getattr(row, name) is not None for row in scored)
    }
    return of_critic | {
        "lengths": torch.tensor([len(sample.token_ids) for sample in samples], dtype=torch.int64),
        "episodes": torch.tensor(
            [numbers.setdefault(sample.episode_id, len(numbers)) for sample in samples], dtype=torch.int64
        ),
        "temperatures": torch.tensor([sample.temperature for sample in samples], dtype=torch.float64),
        "token_ids": joined([sample.token_ids for sample in samples], torch.int64),
        "mask": joined([sample.mask for sample in samples], torch.int8),
        "step_index": joined([sample.step_index for sample in samples], torch.int64),
        "versions": joined([sample.versions for sample in samples], torch.int64),
        "logprobs": joined([sample.logprobs for sample in samples], torch.float64),
        "advantages": joined([row.advantages for row in scored], torch.float64),
        "reference_logprobs": joined([row.reference_logprobs for row in scored], torch.float64),
        "old_logprobs": joined([row.old_logprobs for row in scored], torch.float64),
        "weights": joined(weights, torch.float64),
    }


def to_scored(arrays: Arrays) -> tuple[list[Scored], list[tuple[float, ...]]]:
    """Return the samples of `from_scored`, and their weights."""
    ends = list(accumulate(arrays["lengths"].tolist(), initial=0))

    def divided(name: str) -> list[tuple[float, ...]]:
        values = arrays[name].tolist()
        return [tuple(values[start:end]) for start, end in pairwise(ends)]

    columns = ("token_ids", "mask", "step_index", "versions", "logprobs")
    samples = [
        Sample(episode_id=str(episode), temperature=temperature, **dict(zip(columns, values, strict=True)))
        for episode, temperature, *values in zip(
            arrays["episodes"].tolist(), arrays["temperatures"].tolist(), *map(divided, columns), strict=True
        )
    ]
    names = ("advantages", "reference_logprobs", "old_logprobs", *(name for name in OF_CRITIC if name in arrays))
    scored = [
        Scored(sample=sample, **dict(zip(names, values, strict=True)))
        for sample, *values in zip(samples, *map(divided, names), strict=True)
    ]
    return scored, divided("weights")
