"""Whole weights of a model that is sharded over ranks, one tensor at a time."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lzero.train.lora import is_adapter
from lzero.train.policy import compute_spec
from lzero.train.ranks.loading import own_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Lead = Callable[[bool], AbstractContextManager[object]]
"""Makes a block in which all ranks iterate over the same weights: those of the adapter only, or all."""


class ShardedWeights:
    """Weights in the type in which a model computes, gathered one after another; no rank holds more than one. Implements `WeightSource`.

    Those of an adapter keep their type.

    An iteration is a collective operation. Rank 0 calls the other ranks to it by `lead`; they call `follow`. An iteration that is closed
    early gathers the rest, because the other ranks wait for it.
    """

    def __init__(self, model: "PreTrainedModel", *, lead: Lead = nullcontext, only_adapter: bool = False) -> None:
        self._model = model
        self._place = compute_spec(model)
        self._lead = lead
        self._only_adapter = only_adapter

    def __iter__(self) -> Generator[tuple[str, Tensor], None, None]:
        with self._lead(self._only_adapter):
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
            (name, torch.empty(tensor.shape, dtype=self._type(name, tensor), device="meta"))
            for name, tensor in self._own()
        ]

    def adapter(self) -> "ShardedWeights":
        return ShardedWeights(self._model, lead=self._lead, only_adapter=True)

    @property
    def device(self) -> torch.device:
        return self._place.device

    @torch.no_grad()
    def _gathered(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._own():
            moved = tensor.detach().to(device=self._place.device, dtype=self._type(name, tensor))
            yield name, moved.full_tensor() if hasattr(moved, "full_tensor") else moved

    def _own(self) -> Iterator[tuple[str, Tensor]]:
        return (pair for pair in own_weights(self._model) if not self._only_adapter or is_adapter(pair[0]))

    def _type(self, name: str, tensor: Tensor) -> torch.dtype:
        return self._place.dtype if tensor.is_floating_point() and not is_adapter(name) else tensor.dtype
