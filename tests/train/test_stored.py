"""Files that each hold a part: what some ranks wrote is read by any number of ranks, and by PyTorch's own reader."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from lzero.errors import ModelError
from lzero.train.stored import Parts, own_parts, read_into, stored

WHOLE = {"matrix": torch.arange(21.0).reshape(7, 3), "vector": torch.arange(2), "step": torch.tensor(5.0)}


@dataclass
class Shard:
    """A rank's part of a tensor, with what lzero and DCP ask of a DTensor."""

    part: Tensor
    whole: Tensor
    first: int
    placements = ("rows",)

    @property
    def shape(self) -> torch.Size:
        return self.whole.shape

    @property
    def offset(self) -> tuple[int, ...]:
        return (self.first, *(0,) * (self.part.ndim - 1))

    def to_local(self) -> Tensor:
        return self.part

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(torch.Size(self.offset), self.part.shape)] if self.part.numel() else []


def sharded(tensor: Tensor, *, rank: int, size: int, empty: bool = False) -> Any:
    """Return a rank's rows of a tensor, or memory for them; a scalar is whole on every rank."""
    if not tensor.ndim:
        return torch.zeros_like(tensor) if empty else tensor
    rows = -(-len(tensor) // size)
    part = tensor[rank * rows : (rank + 1) * rows]
    return Shard(torch.zeros_like(part) if empty else part, tensor, min(rank * rows, len(tensor)))


def written(directory: Path, *, size: int) -> list[Path]:
    files = []
    for rank in range(size):
        own = {name: sharded(tensor, rank=rank, size=size) for name, tensor in WHOLE.items()}
        shards = {name: each for name, each in own.items() if isinstance(each, Shard) and each.part.numel()}
        parts = {name: each.part.contiguous() for name, each in shards.items()}
        offsets = {name: each.offset for name, each in shards.items()}
        if rank == 0:
            parts["step"], offsets["step"] = own["step"], ()
        files.append(directory / f"rank-{rank:05d}.safetensors")
        Parts(parts, offsets).write(files[-1])
    return files


@pytest.mark.parametrize("writers", [1, 2, 3])
@pytest.mark.parametrize("readers", [1, 2, 3, 8])
def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path: Path, writers: int, readers: int) -> None:
    found = stored(written(tmp_path, size=writers))
    kinds = {name: (entry.kind.shape, entry.kind.dtype) for name, entry in found.items()}
    assert kinds == {name: (tensor.shape, tensor.dtype) for name, tensor in WHOLE.items()}
    for rank in range(readers):
        targets = {name: sharded(tensor, rank=rank, size=readers, empty=True) for name, tensor in WHOLE.items()}
        read_into(targets, found)
        for name, tensor in WHOLE.items():
            right, own = sharded(tensor, rank=rank, size=readers), targets[name]
            assert torch.equal(getattr(own, "part", own), getattr(right, "part", right)), name


def test_pytorchs_reader_reads_the_files_too(tmp_path: Path) -> None:
    written(tmp_path, size=2)
    targets = {name: torch.zeros_like(tensor) for name, tensor in WHOLE.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is meant for several ranks
        load(targets, storage_reader=HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
    assert all(torch.equal(targets[name], tensor) for name, tensor in WHOLE.items())


def test_the_first_rank_keeps_copies_of_what_all_ranks_have() -> None:
    tensors = {name: tensor.clone() for name, tensor in WHOLE.items()}
    assert own_parts(tensors.items(), first=False).tensors == {}
    parts = own_parts(tensors.items(), first=True)
    assert parts.num_bytes == sum(tensor.nbytes for tensor in WHOLE.values())
    tensors["vector"].add_(1)
    assert torch.equal(parts.tensors["vector"], WHOLE["vector"])


def test_a_missing_part_and_a_broken_file_are_named(tmp_path: Path) -> None:
    first, second = written(tmp_path, size=2)
    with pytest.raises(ModelError, match=f"{tmp_path} lacks a part of matrix"):
        stored([second])
    first.write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match=str(first)):
        stored([first])
    Parts({"far": torch.ones(2)}, {"far": (10**15,)}).write(first)
    with pytest.raises(ModelError, match="lacks a part of far"):
        stored([first])


@pytest.mark.parametrize(
    "parts",
    [
        {(0, 0): (2, 2), (1, 0): (1, 2), (3, 0): (1, 2)},  # row 1 twice, row 2 never
        {(0, 0): (2, 1), (0, 1): (1, 1), (0, 0, 0): (1, 1)},
        {(-1, 0): (2, 2), (2, 0): (1, 2)},
        {(0, 0): (4, 1), (1, 0): (2, 2)},
    ],
)
def test_parts_that_overlap_are_refused_though_their_sizes_add_up(
    tmp_path: Path, parts: dict[tuple[int, ...], tuple[int, ...]]
) -> None:
    files = []
    for number, (offset, shape) in enumerate(parts.items()):
        files.append(tmp_path / f"rank-{number:05d}.safetensors")
        Parts({"matrix": torch.zeros(shape)}, {"matrix": offset}).write(files[-1])
    with pytest.raises(ModelError, match="lacks a part of matrix, or parts overlap"):
        stored(files)


def test_an_empty_part_that_lies_anywhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rank-00000.safetensors"
    Parts({"matrix": torch.zeros(0, 5)}, {"matrix": (0, 10**30)}).write(file)
    with pytest.raises(ModelError, match="matrix has an impossible shape"):
        stored([file])


def test_the_same_part_in_two_files_is_refused(tmp_path: Path) -> None:
    files = [tmp_path / f"rank-{number:05d}.safetensors" for number in range(2)]
    for file in files:
        Parts({"step": torch.tensor(5.0)}, {"step": ()}).write(file)
    with pytest.raises(ModelError, match="or parts overlap"):
        stored(files)
