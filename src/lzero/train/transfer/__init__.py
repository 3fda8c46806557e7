"""The interface through which weights move from a learner to an engine. `in_process.py` implements it for an engine of this process."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class WeightSource(Protocol):
    """Names and tensors of a policy, in a fixed order, which can be iterated repeatedly. If ranks hold parts of it, each of them
    iterates."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...


class ModelWeights:
    """The weights of a model that this process holds completely. Implements `WeightSource`."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self._model = model

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._model.state_dict().items()


class WeightTransfer(Protocol):
    """Moves tensors to an engine, and does nothing else."""

    async def send(self, weights: WeightSource, *, version: int) -> None:
        """Make the engine sample from these weights, as policy `version`, from its next token on. Raises EngineError."""

    async def close(self) -> None: ...
