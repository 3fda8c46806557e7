"""Lose one of two ranks: python lost_rank.py HOW, for each rank, with torchrun's variables. Rank 0 prints the error that ends the run."""

import os
import signal
import sys
import threading
from typing import Any

from lzero.errors import RankError
from lzero.train.ranks import watch
from lzero.train.ranks.dispatch import Dispatcher, obey_all
from lzero.train.ranks.group import Group, Start
from lzero.train.ranks.member import Member
from lzero.train.ranks.orders import NOTHING, Answer, Score
from lzero.train.ranks.place import Place
from lzero.train.ranks.worker import end_with_the_others

ORDER = Score(of="policy", max_tokens=1, packing="padded", whole_episodes=False, square=True)
SIGNALS = {
    "killed": signal.SIGKILL,
    "stopped": signal.SIGSTOP,
    "rank 0 killed": signal.SIGKILL,
    "rank 0 stopped": signal.SIGSTOP,
}


def main(how: str) -> None:
    watch.DEAD_S = 5.0
    place = Place.from_environment(os.environ)
    assert place is not None
    group = Group.join(place, start=None if place.rank else Start(device="cpu", timeout_s=3000))
    victim = 0 if how.startswith("rank 0") else 1

    def obey(self: Score, member: Member, arrays: Any) -> Answer:
        if place.rank == victim and how != "killed while it waits":
            if how == "fails":
                raise MemoryError("no room for a row")
            os.kill(os.getpid(), SIGNALS[how])
        group.largest(1)  # the other one waits here
        return NOTHING, {}

    Score.obey = obey  # type: ignore[method-assign]
    member = Member(group=group, trainer=None)  # type: ignore[arg-type]
    known = threading.Event()
    group.on_failure(lambda problem: known.set())
    try:
        if place.rank:
            end_with_the_others(group)
            if how == "killed while it waits":
                threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
            obey_all(group, member)
        elif how == "killed while it waits":
            assert known.wait(60)
            print(group.failure)
        else:
            Dispatcher(group, member).run(ORDER)
    except RankError as error:
        print(error)
        sys.stdout.flush()
        os._exit(3)  # without waiting for the threads of a group that is broken


if __name__ == "__main__":
    main(sys.argv[1])
