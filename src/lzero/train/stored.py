"""Files that each hold parts of tensors: safetensors with offsets, the format of torch.distributed.checkpoint (DCP).

Each rank writes one file, and reads only the bytes of its own part, whatever the number of ranks that wrote them. A file of whole tensors,
such as the weights of a model directory, is the same without offsets. Nothing is a pickle.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lzero.errors import ModelError
from lzero.model_files import read_by_library

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types of tensors → their names in a safetensors file."""
SHARDING, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
"""Names in a file's metadata under which DCP keeps the offsets of parts in their tensors."""
NAMED_TYPES = {name: kind for kind, name in TYPES.items()}


@dataclass(frozen=True)
class Parts:
    """Copies of one rank's parts of tensors, in the memory of its host."""

    tensors: Mapping[str, Tensor]
    offsets: Mapping[str, tuple[int, ...]]
    """Where each part begins in its tensor."""

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def write(self, file: Path) -> None:
        """Write a file. Raises OSError or SafetensorError."""
        offsets = {name: {OFFSETS: offset} for name, offset in self.offsets.items()}
        save_file(
            dict(self.tensors), file, metadata={SHARDING: json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
        )


def own_parts(tensors: Iterable[tuple[str, Tensor]], *, first: bool) -> Parts:
    """Return copies of this rank's parts. `first`: whether this rank has the parts that all ranks have, such as counts of steps."""
    copies: dict[str, Tensor] = {}
    offsets: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors:
        written = _is_written(tensor) if hasattr(tensor, "placements") else first
        own, offset = _own(tensor)
        if written and own.numel():
            copies[name], offsets[name] = own.detach().to("cpu", copy=True).contiguous(), offset
    return Parts(copies, offsets)


def _is_written(sharded: Any) -> bool:
    """Return whether this rank writes its part: the first of those that have the same one."""
    places = zip(sharded.device_mesh.get_coordinate(), sharded.placements, strict=True)
    return not any(number and placement.is_replicate() for number, placement in places)


@dataclass(frozen=True)
class Piece:
    """A part of a tensor in a file."""

    file: Path
    offset: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A tensor in files."""

    kind: Tensor
    """Its type and shape, on the meta device."""
    pieces: Sequence[Piece]


def stored(files: Iterable[Path]) -> dict[str, Stored]:
    """Return name → tensor of safetensors files. Raises ModelError if a file is broken, or the parts of a tensor are not the whole."""
    pieces: dict[str, list[Piece]] = {}
    types: dict[str, torch.dtype] = {}
    for file in files:
        with _opened(file) as opened:
            sharding = json.loads((opened.metadata() or {}).get(SHARDING, "{}"))
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                entry = opened.get_slice(name)
                shape = tuple(entry.get_shape())
                offset = tuple(map(int, sharding[name][OFFSETS])) if sharding else (0,) * len(shape)
                pieces.setdefault(name, []).append(Piece(file, offset, shape))
                types[name] = NAMED_TYPES[entry.get_dtype()]
    return {name: _joined(name, own, types[name]) for name, own in pieces.items()}


def _joined(name: str, pieces: Sequence[Piece], dtype: torch.dtype) -> Stored:
    """Return the tensor of these pieces. Parts that do not overlap, and have as many elements as the whole, are the whole."""
    alike = len({len(numbers) for piece in pieces for numbers in (piece.offset, piece.shape)}) == 1
    extent = _extent(pieces) if alike and all(min(piece.offset, default=0) >= 0 for piece in pieces) else None
    held = sum(math.prod(piece.shape) for piece in pieces)
    if extent is None or held != math.prod(extent) or _overlap(pieces):
        raise ModelError(
            f"{pieces[0].file.parent} lacks a part of {name}, or parts overlap: a file is missing, or is another checkpoint's"
        )
    with read_by_library(pieces[0].file.parent, f"{name} has an impossible shape"):
        return Stored(torch.empty(extent, dtype=dtype, device="meta"), pieces)


def _overlap(pieces: Sequence[Piece]) -> bool:
    """Return whether two pieces have an element in common. Compares each only with those that begin before it ends, along the dimension
    in which most pieces begin at different places."""
    filled = [piece for piece in pieces if math.prod(piece.shape)]
    starts = [set(offsets) for offsets in zip(*(piece.offset for piece in filled), strict=True)]
    most = max(range(len(starts)), key=lambda dimension: len(starts[dimension]), default=0)
    ordered = sorted(filled, key=lambda piece: piece.offset[most : most + 1])
    for number, one in enumerate(ordered):
        for other in ordered[number + 1 :]:
            shared = [
                min(start + size, its_start + its_size) > max(start, its_start)
                for start, size, its_start, its_size in zip(
                    one.offset, one.shape, other.offset, other.shape, strict=True
                )
            ]
            if all(shared):
                return True
            if not shared[most]:
                break  # further ones begin later
    return False


def _extent(pieces: Sequence[Piece]) -> tuple[int, ...]:
    ends = [[start + size for start, size in zip(piece.offset, piece.shape, strict=True)] for piece in pieces]
    return tuple(map(max, zip(*ends, strict=True)))


@torch.no_grad()
def read_into(targets: Mapping[str, Tensor], found: Mapping[str, Stored]) -> None:
    """Fill tensors, or this rank's parts of them, from files. Each target has the shape of the stored tensor of its name.

    Involves no other rank. Raises ModelError if a file is broken.
    """
    wanted: dict[Path, list[tuple[str, Piece]]] = {}
    for name in targets:
        for piece in found[name].pieces:
            wanted.setdefault(piece.file, []).append((name, piece))
    for file, entries in wanted.items():
        with _opened(file) as opened:
            for name, piece in entries:
                _copy_overlap(opened, name, piece, *_own(targets[name]))


@torch.no_grad()
def fill(target: Tensor, whole: Tensor) -> None:
    """Copy a tensor, or this rank's part of it, into `target`. Involves no other rank."""
    own, share = own_share(target, whole)
    own.copy_(share)


def own_share(target: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Return this rank's part of a sharded `target`, and the same part of a whole tensor of its shape."""
    own, offset = _own(target)
    return own, whole[tuple(slice(start, start + size) for start, size in zip(offset, own.shape, strict=True))]


def _own(target: Any) -> tuple[Tensor, tuple[int, ...]]:
    """Return this rank's part of a tensor, and its offset."""
    if not hasattr(target, "placements"):
        return target.detach(), (0,) * target.ndim
    local = target.to_local()
    chunks = target.__create_chunk_list__()
    return local, tuple(chunks[0].offsets) if chunks else (0,) * local.ndim


def _copy_overlap(opened: Any, name: str, piece: Piece, own: Tensor, offset: tuple[int, ...]) -> None:
    """Copy what a piece and this rank's part have in common."""
    if not own.ndim:
        own.copy_(opened.get_tensor(name))
        return
    there, here = [], []
    for start, size, own_start, own_size in zip(piece.offset, piece.shape, offset, own.shape, strict=True):
        first, last = max(start, own_start), min(start + size, own_start + own_size)
        if first >= last:
            return
        there.append(slice(first - start, last - start))
        here.append(slice(first - own_start, last - own_start))
    own[tuple(here)].copy_(opened.get_slice(name)[tuple(there)])


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a safetensors file. Raises ModelError for whatever a broken one makes the library raise."""
    from safetensors import safe_open

    with read_by_library(file, "cannot be read"), safe_open(file, framework="pt") as opened:
        yield opened
