"""Weights in a file, for servers that load it."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lzero.errors import EngineError
from lzero.train.transfer.file import FileTransfer, _memory_directory
from lzero.types import Json

WEIGHTS = [("embed", torch.ones(2, 3)), ("head", torch.zeros(3))]


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
    weights = [*WEIGHTS, ("tied", WEIGHTS[0][1])]
    await FileTransfer(servers).send(weights, version=1)
    assert list(servers.loaded) == ["embed", "head"]
    assert torch.equal(servers.loaded["embed"], WEIGHTS[0][1])
    assert not list(tmp_path.iterdir())


async def test_a_place_that_takes_no_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"cannot write the weights for the servers to {tmp_path}/none"):
        await FileTransfer(Servers(tmp_path / "none")).send(WEIGHTS, version=1)


def test_weights_beyond_the_memory_that_is_free_go_to_the_disk() -> None:
    assert _memory_directory(1 << 62) is None
