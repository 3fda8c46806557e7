"""Weights for servers: in a file, or by a broadcast (as far as a machine without GPUs can make one)."""

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from builders import make_nano
from safetensors.torch import load_file
from torch import Tensor

from lzero.errors import TrainError
from lzero.temporary import machine
from lzero.train.transfer import HeldWeights, open_transfer
from lzero.train.transfer.adapter import AdapterTransfer
from lzero.train.transfer.file import FileTransfer, _memory_directory
from lzero.train.transfer.nccl import NCCLTransfer, described, group_infos
from lzero.types import Json

TENSORS = [("embed", torch.ones(2, 3)), ("head", torch.zeros(3))]
WEIGHTS = HeldWeights(TENSORS)


class Servers:
    """An engine whose servers load each file that they are given."""

    def __init__(self, shared_directory: Path | None = None) -> None:
        self.shared_directory = shared_directory
        self.loaded: dict[str, Tensor] = {}

    async def update(self, update: Mapping[str, Json], *, version: int) -> None:
        self.loaded = load_file(cast(str, update["path"]))


@pytest.mark.parametrize("shared", [True, False])
async def test_the_servers_find_all_weights_and_nothing_stays(tmp_path: Path, shared: bool) -> None:
    servers = Servers(tmp_path if shared else None)
    weights = HeldWeights([*TENSORS, ("tied", TENSORS[0][1])])
    await FileTransfer(servers).send(weights, version=1)
    assert list(servers.loaded) == ["embed", "head"]
    assert torch.equal(servers.loaded["embed"], TENSORS[0][1])
    assert not list(tmp_path.iterdir())


async def test_a_place_that_takes_no_weights_is_named_and_is_no_failure_of_the_servers(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=f"cannot write the weights for the servers to {tmp_path}/none.*Make room"):
        await FileTransfer(Servers(tmp_path / "none")).send(WEIGHTS, version=1)


def test_weights_beyond_the_memory_that_is_free_go_to_the_disk() -> None:
    assert _memory_directory(1 << 62) is None


class Joining(Servers):
    """An engine whose servers join a group."""

    trainer_address = "10.0.0.1"
    sync_s = 60.0

    restarts = 0

    async def num_workers(self) -> list[int]:
        return [1]

    async def leave_group(self) -> None: ...

    async def prepare_updates(self, infos: Sequence[Mapping[str, Json]]) -> None: ...


def test_the_engine_chooses_the_transfer() -> None:
    joining = Joining()
    model = make_nano()
    assert isinstance(open_transfer(joining, model), NCCLTransfer)
    joining.trainer_address = ""
    assert isinstance(open_transfer(joining, model), FileTransfer)
    assert isinstance(open_transfer(Servers(), model), FileTransfer)
    with pytest.raises(TypeError, match="takes no weights"):
        open_transfer(object(), model)


def test_the_trainer_has_rank_0_and_each_worker_of_each_server_a_rank_of_its_own() -> None:
    infos = group_infos([2, 1, 4], address="10.0.0.1", port=5)
    assert [info["rank_offset"] for info in infos] == [1, 3, 4]
    assert {info["world_size"] for info in infos} == {8}


def test_tensors_are_described_in_the_order_in_which_they_are_sent() -> None:
    weights = HeldWeights([*TENSORS, ("tied", TENSORS[0][1])])
    assert described(weights.outline) == {
        "names": ["embed", "head"],
        "dtype_names": ["float32", "float32"],
        "shapes": [[2, 3], [3]],
    }


async def test_weights_that_are_not_on_a_gpu_are_not_broadcast() -> None:
    with pytest.raises(TrainError, match="needs the trainer on a GPU, and it is on cpu"):
        await NCCLTransfer(Joining()).send(WEIGHTS, version=1)


class Adapted(Servers):
    """An engine whose servers load adapters, and keep them."""

    takes_adapters = True

    async def load_adapter(self, directory: Path, *, version: int) -> list[Path]:
        self.home = directory
        return []


async def test_adapters_of_processes_that_were_killed_are_removed_and_those_in_use_stay(tmp_path: Path) -> None:
    left, used, new = (tmp_path / f"lzero-adapter-{machine()}-{name}" for name in ("left", "used", "new"))
    for directory in (left, used, new):
        directory.mkdir()
    lock = os.open(used, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    servers = Adapted(tmp_path), Adapted(tmp_path)
    transfers = [AdapterTransfer(each, {}) for each in servers]
    await transfers[0].send(WEIGHTS, version=1)
    for directory in (left, used, servers[0].home):
        os.utime(directory, (0, 0))
    await transfers[1].send(WEIGHTS, version=1)
    assert {*tmp_path.iterdir()} == {used, new, servers[0].home, servers[1].home}
    for transfer in transfers:
        await transfer.close()
    assert {*tmp_path.iterdir()} == {used, new}
    os.close(lock)
