"""What a warm process does to its memory before it is forked, so that its children share as much of it as they can.

A child shares a page until somebody writes to it. What the collector writes while it looks at objects is the largest part of
that, and freezing takes it away (25 MB a child, otherwise 3). Of what is left, a tenth is due to new objects: Python's allocator
puts them where old ones have left gaps, each in a page that the child must copy first.
"""

import gc

_POOL_BYTES = 16_384
_POOL_HEADER = 48
_SIZES = range(48, 513, 16)
"""Objects that Python's own allocator serves, a pool for each size; a smaller one than 33 bytes is no `bytes`."""
_MOST = 50_000
"""Fillers of one size; a process in order needs a few hundred."""


def settle() -> list[bytes]:
    """Collect, close the gaps, keep the collector from all that is here. What is returned must live as long as the process."""
    gc.collect()
    gc.disable()
    fillers = [filler for size in _SIZES for filler in _fillers(size)]
    gc.freeze()
    return fillers


def _fillers(size: int) -> list[bytes]:
    """As many objects as it takes until one pool holds nothing else: there was no gap left then, and it was a new one."""
    room = (_POOL_BYTES - _POOL_HEADER) // size
    fillers: list[bytes] = []
    pool, there = 0, 0
    while there < room and len(fillers) < _MOST:
        filler = bytes(size - 33)
        fillers.append(filler)
        there = there + 1 if id(filler) // _POOL_BYTES == pool else 1
        pool = id(filler) // _POOL_BYTES
    return fillers
