"""The ranks beside rank 0: they load their part, and obey."""

import os
import signal
import sys
import threading
from pathlib import Path

import msgspec

from lzero.config import Config, make_config
from lzero.errors import ConfigError, LzeroError
from lzero.threads import several
from lzero.train.ranks.dispatch import failures_reported, obey_all
from lzero.train.ranks.group import JOIN_S, Group
from lzero.train.ranks.member import build_member
from lzero.train.ranks.place import Place
from lzero.train.seeding import seeded

END_S = 10.0


def work(config: Config | None = None) -> int:
    """Train as the rank that torchrun's variables name, until rank 0 ends the run; return an exit code.

    `config`: the configuration that this process has read itself, which has to be that of rank 0.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 ends the run
    try:
        _work(config)
    except LzeroError as error:
        print(f"lzero: {error}", file=sys.stderr)
        return 1
    return 0


def _work(config: Config | None) -> None:
    import torch

    place = Place.from_environment(os.environ)
    if place is None or place.rank == 0:
        raise ConfigError(
            "this program is a rank from 1 on: `lzero train` with train.ranks starts it, or torchrun does"
        )
    group = Group.join(
        place,
        config=config.model_dump_json() if config else "",
        timeout_s=config.train.rank_timeout_s if config else JOIN_S,
    )
    end_with_the_others(group)
    start = group.start
    with failures_reported(group):
        if start.directory:
            os.chdir(start.directory)
        settings = make_config(msgspec.json.decode(start.config))
        torch.set_num_threads(several())
        with seeded(settings.run):
            member, _ = build_member(settings, group, checkpoint=(start.checkpoint and Path(start.checkpoint)) or None)
            obey_all(group, member)
    group.close()


def end_with_the_others(group: Group) -> None:
    """When a rank has failed, end this process if it has not ended by itself some seconds later: it may wait for a rank that hangs."""

    def end_soon(problem: str) -> None:
        print(f"lzero: {problem}", file=sys.stderr, flush=True)
        timer = threading.Timer(END_S, os._exit, (1,))
        timer.daemon = True
        timer.start()

    group.on_failure(end_soon)
