"""Interface through which weights move from a learner to an engine.

in_process.py   copies tensors to an engine of this process
file.py         writes a file that servers load, in memory or in a shared directory
nccl.py         broadcasts from the trainer's GPU to those of vLLM servers
adapter.py      writes a LoRA adapter, for servers that hold the base model
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from safetensors import SafetensorError
from torch import Tensor

from lzero.errors import TrainError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class WeightSource(Protocol):
    """Names and tensors of a policy, in a fixed order. It can be iterated repeatedly. If several ranks hold parts, all of them iterate."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...


class ModelWeights:
    """Weights of a model that this process holds completely. Implements `WeightSource`."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self._model = model

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._model.state_dict().items()


class WeightTransfer(Protocol):
    """Moves tensors to an engine; `lzero.train.publish` pauses, probes and repeats."""

    async def send(self, weights: WeightSource, *, version: int) -> None:
        """Make the engine sample from these weights, as policy `version`, from its next token on.

        Raises EngineError for a failure of the engine, which another try or a restart may cure. Raises TrainError for one of the trainer,
        which neither does.
        """

    async def close(self) -> None: ...


@contextmanager
def unwritable(what: str, place: str | Path) -> Iterator[None]:
    """Convert failures of writing `what` to a directory, such as a full disk, to TrainError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainError(
            f"cannot write {what} for the servers to {place}: {error}. Make room there, and resume the run"
        ) from None


def untied(weights: WeightSource) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors. Leave out tied layers, whose tensors share memory with an earlier one: the servers tie them, too."""
    seen: set[int] = set()
    for name, tensor in weights:
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield name, tensor


def open_transfer(engine: object) -> WeightTransfer:
    """Return the transfer that fits this engine. Raises TypeError for an engine that loads no weights."""
    from lzero.train.transfer.file import FileTransfer, UpdatingEngine
    from lzero.train.transfer.in_process import InProcessTransfer, LoadingEngine
    from lzero.train.transfer.nccl import GroupedEngine, NCCLTransfer

    if isinstance(engine, LoadingEngine):
        return InProcessTransfer(engine)
    if isinstance(engine, GroupedEngine) and engine.trainer_address:
        return NCCLTransfer(engine)
    if isinstance(engine, UpdatingEngine):
        return FileTransfer(engine)
    raise TypeError(f"{type(engine).__name__} takes no weights")
