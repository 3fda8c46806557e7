"""A transfer by broadcast, as the trainer makes it, without a GPU."""

from collections.abc import Iterator, Mapping

import torch

from lzero.types import Json


class Broadcasts:
    """Plays NCCL's part: groups of the trainer and its server. Implements `Collective`."""

    device_type = "cpu"

    def __init__(self) -> None:
        self.events: list[str] = []

    def open(self, info: Mapping[str, Json], device: torch.device) -> "Broadcasts":
        self.events.append("open")
        return self

    def broadcast(self, tensors: Iterator[tuple[str, torch.Tensor]], group: object, device: torch.device) -> None:
        self.events.append("broadcast")

    def destroy(self) -> None:
        self.events.append("destroy")
