"""The interface through which weights move from a learner to an engine.

in_process.py   copies tensors to an engine of this process
file.py         writes a file in memory that servers of this machine load
"""

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


def open_transfer(engine: object) -> WeightTransfer:
    """Return the way in which weights reach this engine. Raises TypeError for one that takes none."""
    from lzero.train.transfer.file import InFile, UpdatingEngine
    from lzero.train.transfer.in_process import InProcess, LoadingEngine

    if isinstance(engine, LoadingEngine):
        return InProcess(engine)
    if isinstance(engine, UpdatingEngine):
        return InFile(engine)
    raise TypeError(f"{type(engine).__name__} takes no weights")
