"""Division of the devices between learning and sampling."""

from collections.abc import Iterator
from dataclasses import dataclass

from lzero.config import Config, VLLMEngineConfig


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Devices of a run. In one process, the learner and the engine share one."""

    ranks: int
    """Devices of the trainer; each holds its share of weights, gradients and moments."""
    replicas: int
    """Engines, each with the whole model."""
    devices_per_replica: int = 1
    shared: bool = False
    """Whether one device learns and samples in turns."""

    @property
    def devices(self) -> int:
        return self.ranks if self.shared else self.ranks + self.replicas * self.devices_per_replica

    def __str__(self) -> str:
        if self.shared:
            return "one device that learns and samples in turns"
        each = f" of {self.devices_per_replica} devices" if self.devices_per_replica > 1 else ""
        return f"{self.ranks} to learn, {self.replicas} × engine{each}"


def configured(config: Config) -> Placement:
    """Return the placement that a configuration asks for."""
    engine, ranks = config.engine, config.train.ranks
    if isinstance(engine, VLLMEngineConfig):
        replicas = len(engine.urls) or engine.replicas
        return Placement(ranks=ranks, replicas=replicas, devices_per_replica=engine.devices_per_replica)
    if urls := getattr(engine, "urls", ()):
        return Placement(ranks=ranks, replicas=len(urls))
    return Placement(ranks=1, replicas=1, shared=True)


def possible(devices: int, heads: int) -> Iterator[Placement]:
    """Yield the placements that use all devices. A replica's devices divide the model's heads."""
    for ranks in range(1, devices):
        rest = devices - ranks
        for width in (1, 2, 4, 8):
            if rest % width == 0 and heads % width == 0:
                yield Placement(ranks=ranks, replicas=rest // width, devices_per_replica=width)
