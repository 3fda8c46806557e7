"""Open the trainer of a run: in this process alone, or with ranks that are started for it or were started beside it."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.config import Config
from lzero.errors import RankError
from lzero.launch import PYTHON, Program, Running, open_launcher
from lzero.plan.architecture import architecture_of
from lzero.threads import dividing_threads, several
from lzero.train.checkpoint import Progress
from lzero.train.ranks.dispatch import failures_reported
from lzero.train.ranks.group import JOIN_S, Group, Start
from lzero.train.ranks.member import build_member
from lzero.train.ranks.place import Place
from lzero.train.ranks.trainer import RankTrainer
from lzero.train.trainer import Trainer
from lzero.train.ulysses import check_heads

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)
END_S = 10.0
"""Seconds that the other ranks have to end after the last order."""


@asynccontextmanager
async def opened_trainer(config: Config, *, checkpoint: Path | None) -> AsyncIterator[tuple[Trainer, Progress]]:
    """Yield the trainer of a run and its progress. In the end, all other ranks have ended, or are ending.

    Raises ConfigError if ranks cannot share the model's heads, RankError if a rank does not start, differs or fails, and what
    `Trainer.build` raises.
    """
    place = Place.from_environment(os.environ)
    if is_alone(config, place):
        yield Trainer.build(config, checkpoint=checkpoint)
        return
    if config.train.sequence_ranks > 1:
        of_critic = {"the critic": config.critic.path} if config.critic.kind == "model" and config.critic.path else {}
        for name, path in ({"the model": config.model.path} | of_critic).items():
            architecture = architecture_of(path)
            check_heads(architecture.heads, architecture.kv_heads, config.train.sequence_ranks, of=name)
    async with AsyncExitStack() as stack:
        rendezvous = await stack.enter_async_context(_started(config)) if place is None else Rendezvous(place=place)
        start = Start(
            config=config.model_dump_json(),
            checkpoint=str(checkpoint.absolute()) if checkpoint else None,
            directory=os.getcwd(),
            timeout_s=config.train.rank_timeout_s,
            device=config.model.device,
        )
        group = await asyncio.to_thread(
            Group.join, rendezvous.place, start=start, store=rendezvous.store, ended=rendezvous.ended
        )
        stack.callback(group.close)
        loop = asyncio.get_running_loop()
        # A rank that hangs keeps its connections, so the others would wait for it until the group's timeout.
        group.on_failure(lambda _: loop.call_soon_threadsafe(rendezvous.kill))
        with failures_reported(group):
            member, progress = build_member(config, group, checkpoint=checkpoint)
        trainer = RankTrainer.of(member)
        stack.push_async_callback(_stop, trainer)
        yield trainer, progress


def is_alone(config: Config, place: Place | None) -> bool:
    """Return whether this process trains alone and holds all weights. The only rank that torchrun has started does, too."""
    size = config.train.ranks if place is None else place.size
    return size == 1 and not config.train.offload


@dataclass(frozen=True, kw_only=True)
class Rendezvous:
    """Where the ranks of a run meet, and the ranks that this process has started."""

    place: Place
    store: "Store | None" = None
    others: tuple[Running, ...] = ()
    killing: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    """Ranks that are killed because another one has failed."""

    def ended(self) -> dict[int, str]:
        """Return how ranks have ended."""
        causes = {rank: running.end_cause() for rank, running in enumerate(self.others, start=1)}
        return {rank: cause for rank, cause in causes.items() if cause}

    def kill(self) -> None:
        """Begin to kill the ranks that run. Call it in the event loop."""
        for rank, running in enumerate(self.others, start=1):
            if not running.end_cause():
                self.killing[rank] = asyncio.create_task(running.kill())


@asynccontextmanager
async def _started(config: Config) -> AsyncIterator[Rendezvous]:
    """Start the other ranks, and yield where they meet. End them afterwards; log the last lines of those that ended by themselves."""
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    size = config.train.ranks
    on_gpus = config.model.device != "cpu" and torch.cuda.is_available()
    alone = bool(config.launch.ray) and on_gpus  # Ray shows a rank the GPU that it has, and no other
    async with open_launcher(config.launch) as launcher:
        listener = socket.create_server(
            (launcher.host, 0)
        )  # the store itself would listen to every network of this machine
        port = listener.getsockname()[1]
        store = TCPStore(
            launcher.host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=JOIN_S),
            master_listen_fd=listener.detach(),
        )
        place = Place(
            rank=0, size=size, local_rank=0, host=launcher.host, port=store.port, key=secrets.token_urlsafe(32)
        )
        with dividing_threads(size):
            threads = {"OMP_NUM_THREADS": str(several())}
            programs = [
                Program(
                    name=f"rank {rank}",
                    role="rank",
                    command=(PYTHON, "-m", "lzero.train.ranks"),
                    variables={**replace(place, rank=rank, local_rank=0 if alone else rank).variables(), **threads},
                    gpus=int(on_gpus),
                )
                for rank in range(1, size)
            ]
            rendezvous = Rendezvous(
                place=place, store=store, others=tuple([await launcher.launch(program) for program in programs])
            )
            try:
                yield rendezvous
            except RankError:
                for rank in rendezvous.ended().keys() - rendezvous.killing.keys():
                    logger.error("rank %d wrote last: %s", rank, await rendezvous.others[rank - 1].tail())
                raise
            finally:
                if not rendezvous.ended():
                    await _all_ended(rendezvous)


async def _all_ended(rendezvous: Rendezvous) -> None:
    """Wait for ranks that were stopped; those that do not end in time are killed when the launcher closes."""
    with suppress(TimeoutError):
        async with asyncio.timeout(END_S):
            await asyncio.gather(*(running.ended() for running in rendezvous.others))


async def _stop(trainer: RankTrainer) -> None:
    try:
        await asyncio.to_thread(trainer.dispatcher.stop)
    except RankError as error:
        logger.warning("the ranks were not stopped in order: %s", error)
