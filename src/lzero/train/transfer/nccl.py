"""Transfer weights from the trainer's GPU to the GPUs of vLLM servers, by vLLM's own backend "nccl".

    trainer (rank 0) ──broadcast──▶ workers of server 0 (ranks 1, 2, …), workers of server 1, …

Rank 0 sends all tensors in one fixed order. Every worker receives the whole stream and keeps its part. NCCL waits without end, so its calls
run in daemon threads beside the HTTP requests. When either fails, or after the deadline, the group is destroyed; the next transfer makes a
new one. A restarted server is in no group, so the next transfer makes a new one then, too, before anything is sent.

**Not verified**: no part that needs a GPU has been run. The functions of `vllm` are those of vLLM 0.32. The order of groups, transfers and
restarts is tested with servers that play vLLM's part.
"""

import asyncio
import socket
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lzero.blocking import in_thread
from lzero.errors import EngineError, TrainError
from lzero.train.transfer import WeightSource
from lzero.types import Json


@runtime_checkable
class GroupedEngine(Protocol):
    """An engine whose servers join a group of the trainer's, and then load weights from it."""

    @property
    def trainer_address(self) -> str:
        """The trainer's address, as the servers see it; "" if they read a file instead."""

    @property
    def sync_s(self) -> float:
        """Seconds that joining, and each step of an update, may take."""

    @property
    def restarts(self) -> int:
        """Number of restarts of servers so far; a restarted server is in no group."""

    async def num_workers(self) -> list[int]:
        """Return the number of workers (GPUs) of each server. Raises EngineError."""

    async def leave_group(self) -> None:
        """Make each server leave its group, if it is in one. Raises EngineError."""

    async def prepare_updates(self, infos: Sequence[Mapping[str, Json]]) -> None:
        """Make each server join the group that its item of `infos` describes. Raises EngineError."""

    async def update(self, update: Mapping[str, Json], *, version: int) -> None:
        """Load the weights that `update` describes on every server, as policy `version`. Raises EngineError."""


class Group(Protocol):
    """The trainer's end of a group."""

    def destroy(self) -> None:
        """Leave the group, and end a broadcast that hangs. Takes some seconds at most."""


class Collective(Protocol):
    """Opens groups, and broadcasts. Its methods block, and are called in threads."""

    device_type: str
    """Type of the devices between which it broadcasts."""

    def open(self, info: Mapping[str, Json], device: torch.device) -> Group:
        """Open rank 0 of the group; return when all workers have joined. Raises TrainError if this environment cannot."""

    def broadcast(self, tensors: Iterator[tuple[str, Tensor]], group: Group, device: torch.device) -> None:
        """Send all tensors, one after another; return when they have left this device."""


class VLLMCollective:
    """NCCL, by the trainer's half of vLLM's backend. Implements `Collective`. Not verified."""

    device_type = "cuda"

    def open(self, info: Mapping[str, Json], device: torch.device) -> Group:
        from vllm.distributed.weight_transfer.nccl_common import trainer_init

        with torch.cuda.device(device):
            group = trainer_init(dict(info))
        if not group.available:  # it would send nothing, without an error
            raise TrainError("vLLM finds no NCCL library in the trainer's environment: install lzero into vLLM's")
        opened: Group = group
        return opened

    def broadcast(self, tensors: Iterator[tuple[str, Tensor]], group: Group, device: torch.device) -> None:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()
            packed_nccl_broadcast_producer(tensors, group=group, src=0, post_iter_func=lambda pair: pair[1])


class NCCLTransfer:
    """Broadcasts all weights to all workers of all servers. Implements `WeightTransfer`."""

    def __init__(self, engine: GroupedEngine, collective: Collective | None = None) -> None:
        self._engine = engine
        self._collective = collective or VLLMCollective()
        self._group: Group | None = None
        self._restarts = 0
        """Restarts of servers before the group was opened."""

    async def send(self, weights: WeightSource, *, version: int) -> None:
        device = weights.device
        if device.type != self._collective.device_type:
            raise TrainError(f'engine.transfer = "nccl" needs the trainer on a GPU, and it is on {device}')
        try:
            if self._group is not None and self._engine.restarts != self._restarts:
                await self.close()
            if self._group is None:
                self._group = await self._join(device)
            await self._together(
                self._engine.update(described(weights.outline), version=version),
                in_thread(self._broadcast, weights, self._group, device),
            )
        except (EngineError, TrainError):
            await self.close()
            raise

    async def close(self) -> None:
        """Leave the group, which ends a broadcast that hangs."""
        group, self._group = self._group, None
        if group is not None:
            await in_thread(group.destroy)  # vLLM waits for 5 s at most

    def _broadcast(self, weights: WeightSource, group: Group, device: torch.device) -> None:
        with closing(iter(weights)) as tensors:
            contiguous = ((name, tensor.detach().contiguous()) for name, tensor in tensors)
            self._collective.broadcast(contiguous, group, device)

    async def _join(self, device: torch.device) -> Group:
        """Return the trainer's end of a new group. The servers leave their earlier ones."""
        workers = await self._engine.num_workers()
        self._restarts = self._engine.restarts
        await self._engine.leave_group()
        infos = group_infos(workers, address=self._engine.trainer_address, port=_free_port())
        opening = in_thread(self._collective.open, infos[0], device)
        group, _ = await self._together(opening, self._engine.prepare_updates(infos))
        opened: Group = group
        return opened

    async def _together(self, *parts: Awaitable[Any]) -> list[Any]:
        """Wait for all parts. Raises EngineError when the first one fails, and after the deadline."""
        seconds = 4 * self._engine.sync_s  # each of the three steps of an update has its own deadline
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.gather(*tasks)
        except TimeoutError:
            raise EngineError(f"a transfer of weights by NCCL did not end within {seconds:g} s") from None
        except RuntimeError as error:  # NCCL's own failures, and torch's
            raise EngineError(f"a transfer of weights by NCCL failed: {error}") from None
        finally:
            for task in tasks:
                task.cancel()


def group_infos(workers: Sequence[int], *, address: str, port: int) -> list[dict[str, Json]]:
    """Return each server's settings for joining the trainer's group. The trainer has rank 0; the workers of the servers follow in order."""
    offsets = accumulate(workers[:-1], initial=1)
    return [
        {
            "master_address": address,
            "master_port": port,
            "rank_offset": offset,
            "world_size": 1 + sum(workers),
            "packed": True,
        }
        for offset in offsets
    ]


def described(tensors: Sequence[tuple[str, Tensor]]) -> dict[str, Json]:
    """Return names, types and shapes of the tensors, in the order in which they are sent."""
    return {
        "names": [name for name, _ in tensors],
        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors],
        "shapes": [list(tensor.shape) for _, tensor in tensors],
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
