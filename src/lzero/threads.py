"""With how many threads torch computes, and where.

Every thread that computes with several keeps a pool of OpenMP threads, and once the pools' threads outnumber the cores, libgomp lets none
of them wait actively: every operation sleeps and wakes. So one thread of a process computes with several, that of the local engine (which
trains, too, as nothing is sampled meanwhile), and the others compute alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_several = 0


@contextmanager
def computing_alone() -> Iterator[None]:
    """This thread computes without others while it lasts; what `several` says stays."""
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
    """How many threads the one that computes with several takes: as many as torch would."""
    return _several or torch.get_num_threads()
