"""Rank 0 gives orders to all ranks; a worker obeys them. Both sides of the exchange."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import torch
import torch.distributed as dist
from msgspec import Struct

from lzero.errors import LzeroError, RankError
from lzero.train.ranks.group import Group
from lzero.train.ranks.member import Member
from lzero.train.ranks.orders import Answer, Facts, Order, Stop
from lzero.train.ranks.wire import ArrayHeader, Arrays, from_bytes, to_bytes

GROUP_ERROR_WORDS = ("gloo", "nccl", "closed by peer", "reset by peer", "broken pipe", "timed out", "aborted")
"""Words in messages of errors of the process group itself. They have no type of their own: gloo raises plain RuntimeErrors."""
STOP_S = 55.0
"""Seconds in which all ranks must answer the last order. Nobody watches them meanwhile: a rank that has answered ends."""


class _Sent(Struct, frozen=True, kw_only=True):
    """An order as it is sent, and the description of the arrays that follow."""

    order: Order
    headers: tuple[ArrayHeader, ...]


class _Answered(Struct, frozen=True, kw_only=True):
    facts: Facts
    headers: tuple[ArrayHeader, ...]


class Dispatcher:
    """All ranks, as rank 0 commands them. Thread-safe: one order at a time."""

    def __init__(self, group: Group, member: Member) -> None:
        self.group = group
        self._member = member
        self.number = 0
        """Number of orders so far."""
        self._lock = threading.RLock()
        self._stopped = False

    def run(self, order: Order, shares: Sequence[Arrays] = ()) -> list[Answer]:
        """Let every rank obey `order` with its share of the arrays, and return each rank's answer.

        Raises RankError if a rank has failed or fails meanwhile, and the error of this rank.
        """
        with self.given(order, shares) as answers:
            own = order.obey(self._member, shares[0] if shares else {})
        return [own, *answers]

    @contextmanager
    def given(self, order: Order, shares: Sequence[Arrays] = ()) -> Iterator[list[Answer]]:
        """Let the other ranks obey `order` while this rank does its part in the block, in one thread.

        Yields a list that has their answers after the block. Raises RankError if a rank has failed or fails meanwhile.
        """
        group = self.group
        with self._lock:
            if self._stopped:
                raise RankError("the other ranks have been stopped")
            if group.failure:
                raise RankError(group.failure)
            if group.device.type == "cuda":
                torch.cuda.set_device(group.device)  # it differs between threads
            with failures_reported(group):
                number, self.number = self.number, self.number + 1
                for rank in range(1, group.size):
                    headers, data = to_bytes(shares[rank] if shares else {})
                    group.put(
                        f"order/{rank}/{number}", msgspec.json.encode(_Sent(order=order, headers=headers)).decode()
                    )
                    group.send(data, rank)
                answers: list[Answer] = []
                yield answers
                end = time.monotonic() + (STOP_S if isinstance(order, Stop) else float("inf"))
                answers += [self._answer(rank, number, end=end) for rank in range(1, group.size)]

    def stop(self) -> None:
        """Let the other ranks end. Does nothing if a rank has failed: they end by themselves. Raises RankError if one does not answer."""
        with self._lock:
            try:
                if not self._stopped and not self.group.failure:
                    self.group.stop_watching()
                    self.run(Stop())
            finally:
                self._stopped = True

    def _answer(self, rank: int, number: int, *, end: float) -> Answer:
        left_s = min(self.group.start.timeout_s, max(0.0, end - time.monotonic()))
        text = self.group.get(f"answer/{rank}/{number}", timeout_s=left_s)
        answered = msgspec.json.decode(text, type=_Answered)
        data = self.group.receive(sum(header.num_bytes for header in answered.headers), rank)
        return answered.facts, from_bytes(answered.headers, data)


def obey_all(group: Group, member: Member) -> None:
    """Obey the orders of rank 0 until it says stop. Raises RankError if another rank fails, and the error of this rank."""
    number = 0
    while True:
        with failures_reported(group):
            sent = msgspec.json.decode(group.get(f"order/{group.rank}/{number}"), type=_Sent)
            data = group.receive(sum(header.num_bytes for header in sent.headers), 0)
            facts, arrays = sent.order.obey(member, from_bytes(sent.headers, data))
            headers, data = to_bytes(arrays)
            answered = _Answered(facts=facts, headers=headers)
            group.put(f"answer/{group.rank}/{number}", msgspec.json.encode(answered).decode())
            group.send(data, 0)
        if isinstance(sent.order, Stop):
            return
        number += 1


@contextmanager
def failures_reported(group: Group) -> Iterator[None]:
    """Tell all ranks of an error in the block. If another rank has caused it, raise that rank's RankError instead."""
    try:
        yield
    except RankError as error:
        if not group.failure:  # this rank has found it: the others know nothing of it
            first = group.fail(str(error) if str(error).startswith("rank ") else f"rank {group.rank} failed: {error}")
            raise RankError(first) from error
        raise
    except BaseException as error:
        if isinstance(error, RuntimeError) and _is_of_the_group(error):
            raise group.lost(error) from error
        what = str(error) if isinstance(error, LzeroError) else f"{type(error).__name__}: {error}"
        first = group.fail(f"rank {group.rank} failed: {what}")
        if not first.startswith(f"rank {group.rank} "):
            raise RankError(first) from error
        raise


def _is_of_the_group(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in GROUP_ERROR_WORDS)
