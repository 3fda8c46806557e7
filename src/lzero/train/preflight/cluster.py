"""Ask the Ray cluster of a run, before anything is loaded, whether it has what the run's programs need."""

import os
from collections.abc import Iterator

from lzero.config import Config
from lzero.launch import Program, open_launcher
from lzero.models import select_device
from lzero.train.ranks.place import Place


async def check_cluster(config: Config, *, trains: bool = True) -> None:
    """Raise LaunchError if the cluster of launch.ray does not answer, or lacks a resource. Do nothing if no program is placed on one.

    `trains`: whether the run has ranks, which an evaluation has not.
    """
    if config.launch.ray and (needed := list(programs(config, trains=trains))):
        async with open_launcher(config.launch) as launcher:
            await launcher.check(needed)


def programs(config: Config, *, trains: bool) -> Iterator[Program]:
    """Yield the name and the needs of each program that a run starts on a cluster: one pool server, engines' servers, ranks."""
    engine = config.engine
    replicas = 0 if getattr(engine, "urls", ()) else getattr(engine, "replicas", 0)
    # Only now: an evaluation of a model elsewhere needs no torch.
    on_gpus = (trains or replicas > 0) and select_device(config.model.device).startswith("cuda")
    if not config.repl.is_elsewhere:
        yield Program(name="the pool server", role="pool", command=())
    for number in range(replicas):
        gpus = getattr(engine, "devices_per_replica", 1) if on_gpus else 0
        yield Program(name=f"server {number} of the engine", role="engine", command=(), gpus=gpus)
    started = Place.from_environment(os.environ) is not None  # by torchrun: no rank is placed
    for rank in range(1, config.train.ranks if trains and not started else 1):
        yield Program(name=f"rank {rank}", role="rank", command=(), gpus=int(on_gpus))
