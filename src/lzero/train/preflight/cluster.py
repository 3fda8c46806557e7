"""Ask the Ray cluster of a run, before anything is loaded, whether it has what the run's programs need."""

import os
from collections.abc import Iterator

from lzero.config import Config
from lzero.launch import Program, open_launcher
from lzero.models import select_device
from lzero.train.ranks.place import Place


async def check_cluster(config: Config) -> None:
    """Raise LaunchError if the cluster of launch.ray does not answer, or lacks a resource. Without launch.ray, do nothing."""
    if config.launch.ray:
        async with open_launcher(config.launch) as launcher:
            await launcher.check(list(programs(config)))


def programs(config: Config) -> Iterator[Program]:
    """Yield the name and the needs of each program that a training run starts on a cluster: one pool server, engines' servers, ranks."""
    engine, on_gpus = config.engine, select_device(config.model.device).startswith("cuda")
    if not config.repl.is_elsewhere:
        yield Program(name="the pool server", role="pool", command=())
    if not getattr(engine, "urls", ()):
        for number in range(getattr(engine, "replicas", 0)):
            gpus = getattr(engine, "devices_per_replica", 1) if on_gpus else 0
            yield Program(name=f"server {number} of the engine", role="engine", command=(), gpus=gpus)
    started = Place.from_environment(os.environ) is not None  # by torchrun: no rank is placed
    for rank in range(1, 1 if started else config.train.ranks):
        yield Program(name=f"rank {rank}", role="rank", command=(), gpus=int(on_gpus))
