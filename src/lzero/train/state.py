"""State of optimizers as named tensors, which files hold, and back.

A moment is named `<optimizer>.<parameter>.<slot>`, as in `0.model.norm.weight.exp_avg`. Names, not places in a list, so that another number
of ranks finds its parts. Formats of checkpoints before 3 have the parameter's place in the optimizer instead of its name.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lzero.errors import ModelError, StoreError
from lzero.model_files import read_by_library
from lzero.train.optimizers import COPY, plain, rebuilt, weight_of
from lzero.train.policy import compute_spec
from lzero.train.stored import Stored, read_into, stored

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RANDOM_CPU, RANDOM_CUDA = "random_cpu", "random_cuda"
CRITIC = "critic."
"""Beginning of the names of the critic's weights."""
Slots = dict[str, tuple[str, Tensor]]
"""Slot → its name in the files, and its type and shape on the meta device."""


def state_tensors(
    model: "PreTrainedModel", optimizers: Sequence[Optimizer], *, critic: nn.Module | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the optimizers of model and critic by name, the critic's weights, and torch's random state.

    If weights rest in another type than the model computes in, as those of a sharded model do, they are a slot, too.
    """
    names = _names(model, critic)
    for number, optimizer in enumerate(optimizers):
        for trained in _trained(optimizer):
            weight = weight_of(trained)
            own = f"{number}.{names[id(weight)]}"
            for slot, tensor in plain(optimizer.state.get(trained, {})).items():
                yield f"{own}.{slot}", tensor
            if weight is trained and weight.dtype != compute_spec(model).dtype:
                yield f"{own}.{COPY}", weight
    if critic is not None:
        yield from ((CRITIC + name, tensor) for name, tensor in critic.state_dict().items())
    yield RANDOM_CPU, torch.get_rng_state()
    if torch.cuda.is_available():
        yield RANDOM_CUDA, torch.cuda.get_rng_state()


def restore_state(
    checkpoint: Path,
    files: Sequence[Path],
    model: "PreTrainedModel",
    optimizers: Sequence[Optimizer],
    *,
    critic: nn.Module | None = None,
) -> None:
    """Load what `state_tensors` yields, or this rank's parts of it, from the files of a checkpoint.

    Learning rates stay those of the configuration. Raises StoreError if the files are broken or do not fit the model.
    """
    with _readable(checkpoint):
        found = stored(files)
        targets = {name: _empty(found[name].kind) for name in (RANDOM_CPU, RANDOM_CUDA) if name in found}
    for name, weight in ({} if critic is None else critic.state_dict()).items():
        if CRITIC + name not in found or found[CRITIC + name].kind.shape != weight.shape:
            raise StoreError(f"{checkpoint} has no weights for this critic: {name} is missing, or has another shape")
        targets[CRITIC + name] = weight
    names, slots = _names(model, critic), _slots(found)
    states: list[dict[int, dict[str, Tensor]]] = []
    for number, optimizer in enumerate(optimizers):
        states.append({})
        for place, trained in enumerate(_trained(optimizer)):
            name = names[id(weight_of(trained))]
            own = slots.pop((number, name), None) or slots.pop((number, str(place)), {})
            for slot, (_, kind) in own.items():
                if kind.ndim and kind.shape != trained.shape and "/" not in slot:
                    raise StoreError(
                        f"{checkpoint}: {slot} of {name} has shape {tuple(kind.shape)}, the model's has {tuple(trained.shape)}"
                    )
            made = {slot: _target(trained, kind) for slot, (_, kind) in own.items()}
            if COPY in made and weight_of(trained) is trained:
                targets[own.pop(COPY)[0]] = trained
                made.pop(COPY)
            targets |= {key: made[slot] for slot, (key, _) in own.items()}
            states[-1][place] = made
    if slots:
        _, name = min(slots)
        raise StoreError(
            f"{checkpoint} belongs to another model: it has moments of {name}, which this run does not train"
        )
    with _readable(checkpoint):
        read_into(targets, found)
        for optimizer, state in zip(optimizers, states, strict=True):
            own_state = {place: rebuilt(made) for place, made in state.items() if made}
            optimizer.load_state_dict({**optimizer.state_dict(), "state": own_state})
        torch.set_rng_state(targets[RANDOM_CPU])
        if RANDOM_CUDA in targets and torch.cuda.is_available():
            torch.cuda.set_rng_state(targets[RANDOM_CUDA])


def _names(model: nn.Module, critic: nn.Module | None) -> dict[int, str]:
    own = {} if critic is None else {id(weight): name for name, weight in critic.named_parameters()}
    return own | {id(weight): name for name, weight in model.named_parameters()}


def _trained(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _slots(found: Mapping[str, Stored]) -> dict[tuple[int, str], Slots]:
    """Return (number of the optimizer, name or place of the parameter) → its slots; other tensors are not the optimizers'."""
    slots: dict[tuple[int, str], Slots] = {}
    for key, entry in found.items():
        number, _, rest = key.partition(".")
        parameter, _, slot = rest.rpartition(".")
        if number.isdecimal():
            slots.setdefault((int(number), parameter), {})[slot] = key, entry.kind
    return slots


def _target(trained: Tensor, kind: Tensor) -> Tensor:
    """Return a tensor to read a slot into: sharded as the parameter is, if it has its shape."""
    if kind.ndim and kind.shape == trained.shape:
        return torch.empty_like(trained, dtype=kind.dtype, requires_grad=False)
    return _empty(kind)


def _empty(kind: Tensor) -> Tensor:
    return torch.empty(kind.shape, dtype=kind.dtype)


@contextmanager
def _readable(checkpoint: Path) -> Iterator[None]:
    """Convert whatever a library raises for a broken file to StoreError."""
    try:
        with read_by_library(checkpoint, "the optimizer's state cannot be restored"):
            yield
    except ModelError as error:
        raise StoreError(str(error)) from error
