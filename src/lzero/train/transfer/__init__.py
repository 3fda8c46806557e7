"""Interface through which weights move from a learner to an engine.

in_process.py   copies tensors to an engine of this process
file.py         writes a file that servers load, in memory or in a shared directory
nccl.py         broadcasts from the trainer's GPU to those of vLLM servers
adapter.py      writes a LoRA adapter, for servers that hold the base model
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from lzero.errors import TrainError
from lzero.train.lora import adapted_layers, adapter_settings, adapter_weights, is_adapter, merged_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class WeightSource(Protocol):
    """Names and tensors of a policy, in a fixed order. Tied layers appear once, because everything that loads them ties them, too.

    It can be iterated repeatedly. An iteration may compute each tensor when its turn comes, so that one tensor at a time is in memory: keep
    none of them unless all fit. If several ranks hold parts, an iteration is a collective operation: it runs in one thread, and is closed
    there if it does not come to its end.
    """

    def __iter__(self) -> Generator[tuple[str, Tensor], None, None]: ...

    @property
    def outline(self) -> Sequence[tuple[str, Tensor]]:
        """The same names with tensors of the same types and shapes on the meta device, which hold no data."""

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""

    def adapter(self) -> "WeightSource":
        """Return the weights of the LoRA adapter alone. Others are not gathered."""


class HeldWeights:
    """Weights that this process holds completely. Implements `WeightSource`."""

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self._tensors = tuple(_untied(tensors))

    def __iter__(self) -> Generator[tuple[str, Tensor], None, None]:
        yield from self._tensors

    @property
    def outline(self) -> Sequence[tuple[str, Tensor]]:
        return [(name, tensor.detach().to("meta")) for name, tensor in self._tensors]

    @property
    def device(self) -> torch.device:
        return self._tensors[0][1].device

    def adapter(self) -> "HeldWeights":
        return HeldWeights((name, tensor) for name, tensor in self._tensors if is_adapter(name))


class ModelWeights(HeldWeights):
    """Weights of a model that this process holds completely."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__(model.state_dict().items())


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


def _untied(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors without tied layers, whose tensors share memory with an earlier one."""
    seen: set[int] = set()
    for name, tensor in weights:
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield name, tensor


class ConvertedWeights:
    """Weights of another source, converted one tensor at a time. Implements `WeightSource`."""

    def __init__(
        self, source: WeightSource, convert: Callable[[Iterable[tuple[str, Tensor]]], Iterator[tuple[str, Tensor]]]
    ) -> None:
        self._source = source
        self._convert = convert
        self.device = source.device
        self.adapter = source.adapter

    def __iter__(self) -> Generator[tuple[str, Tensor], None, None]:
        with closing(iter(self._source)) as weights:
            yield from self._convert(weights)

    @property
    def outline(self) -> Sequence[tuple[str, Tensor]]:
        return list(self._convert(self._source.outline))


class ConvertingTransfer:
    """Sends weights in another form. Implements `WeightTransfer`."""

    def __init__(self, transfer: WeightTransfer, convert: Callable[[WeightSource], WeightSource]) -> None:
        self._transfer = transfer
        self._convert = convert
        self.close = transfer.close

    async def send(self, weights: WeightSource, *, version: int) -> None:
        await self._transfer.send(self._convert(weights), version=version)


def open_transfer(engine: object, model: "PreTrainedModel") -> WeightTransfer:
    """Return the transfer of a model's weights that fits this engine: of its adapter, if it has one and the engine takes adapters; else of
    all weights, with the adapter merged. Raises TypeError for an engine that loads no weights."""
    from lzero.train.transfer.adapter import AdaptedEngine, AdapterTransfer

    if not adapted_layers(model):
        return _whole_transfer(engine)
    if isinstance(engine, AdaptedEngine) and engine.takes_adapters:
        transfer = AdapterTransfer(engine, adapter_settings(model))
        return ConvertingTransfer(transfer, lambda source: ConvertedWeights(source.adapter(), adapter_weights))
    merged = partial(merged_weights, model=model)
    return ConvertingTransfer(_whole_transfer(engine), lambda source: ConvertedWeights(source, merged))


def _whole_transfer(engine: object) -> WeightTransfer:
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
