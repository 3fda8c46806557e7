"""Whole weights of a model that is sharded over ranks, one tensor at a time."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lzero.train.policy import placement
from lzero.train.ranks.loading import own_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Lead = Callable[[], AbstractContextManager[object]]
"""Makes a block in which all ranks iterate over the same weights."""


class ShardedWeights:
    """Weights in the type in which a model computes, gathered one after another; no rank holds more than one. Implements `WeightSource`.

    An iteration is a collective operation. Rank 0 calls the other ranks to it by `lead`; they call `follow`. An iteration that is closed
    early gathers the rest, because the other ranks wait for it.
    """

    def __init__(self, model: "PreTrainedModel", *, lead: Lead = nullcontext) -> None:
        self._model = model
        self._place = placement(model)
        self._lead = lead

    def __iter__(self) -> Generator[tuple[str, Tensor], None, None]:
        with self._lead():
            rest = self._gathered()
            try:
                for pair in rest:  # noqa: UP028 - `yield from` would close `rest`, too
                    yield pair
            except GeneratorExit:
                for _ in rest:
                    pass

    def follow(self) -> None:
        """Take part in an iteration of rank 0."""
        for _ in self._gathered():
            pass

    @property
    def outline(self) -> Sequence[tuple[str, Tensor]]:
        return [
            (name, torch.empty(tensor.shape, dtype=self._type(tensor), device="meta"))
            for name, tensor in own_weights(self._model)
        ]

    @property
    def device(self) -> torch.device:
        return self._place.device

    @torch.no_grad()
    def _gathered(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in own_weights(self._model):
            moved = tensor.detach().to(device=self._place.device, dtype=self._type(tensor))
            yield name, moved.full_tensor() if hasattr(moved, "full_tensor") else moved

    def _type(self, tensor: Tensor) -> torch.dtype:
        return self._place.dtype if tensor.is_floating_point() else tensor.dtype
