"""Control how many threads torch computes with, and where.

Every thread that computes with several keeps a pool of OpenMP threads. If the threads of all pools outnumber the cores, libgomp lets none
of them wait actively, so every operation sleeps and wakes. So only one thread of a process computes with several: that of the local engine,
which also trains, because sampling waits then. The others compute alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_several = 0


@contextmanager
def computing_alone() -> Iterator[None]:
    """Compute with one thread in the block; the value of `several` does not change."""
    global _several
    before, outer = torch.get_num_threads(), _several
    _several = outer or before
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _several = outer


def several() -> int:
    """Return the number of threads for the one thread that computes with several: torch's default."""
    return _several or torch.get_num_threads()


@contextmanager
def dividing_threads(processes: int) -> Iterator[None]:
    """Divide `several` by a number of processes that compute on this machine in the block."""
    global _several
    outer = _several
    _several = max(1, several() // processes)
    try:
        yield
    finally:
        _several = outer
