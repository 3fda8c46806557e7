"""Arrange the memory of a warm process before it forks, so that its children share as much of it as possible.

A child shares a page until a process writes to it. Most writes come from the garbage collector while it examines objects, and freezing
avoids them (a child holds 25 MB without it, 3 MB with it). A tenth of the rest is due to new objects: Python's allocator puts them into
gaps between old ones, each in a page that the child must copy first. The remainder is reference counts. A call changes the count of its
code. A lookup of an attribute that the type cache does not hold changes the count of the name that it evicts.
"""

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, FunctionType

_POOL_BYTES = 16_384
_POOL_HEADER = 48
_SIZES = range(48, 513, 16)
"""Sizes of objects that Python's own allocator serves, with a pool for each. The smallest `bytes` takes 33 bytes."""
_MOST = 50_000
"""The most fillers of one size; a healthy process needs a few hundred."""
_HERE = str(Path(__file__).parent)


def gather(run: Callable[[], object]) -> None:
    """Move the code that `run` executes, and that of the modules here, next to each other. After the import it is spread over many pages.

    The interpreter loses its specialisations of that code, so the code must run some more times.
    """
    used: dict[int, CodeType] = {}

    def note(frame: FrameType, *_: object) -> None:
        used[id(frame.f_code)] = frame.f_code

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    functions = [thing for thing in gc.get_objects() if type(thing) is FunctionType]
    codes = [function.__code__ for function in functions]
    used |= {id(code): code for code in codes if code.co_filename.startswith(_HERE)}
    first = _copies(used)  # fills the existing gaps
    copies = _copies(used)
    for function, code in zip(functions, codes, strict=True):
        if id(code) in copies:
            function.__code__ = copies[id(code)]
    del first


def _copies(codes: dict[int, CodeType]) -> dict[int, CodeType]:
    """Return copies of the codes, by the original's id. The code of an inner function is copied within its outer one."""
    copies: dict[int, CodeType] = {}

    def copy(code: CodeType) -> CodeType:
        if id(code) not in copies:
            constants = tuple(copy(constant) if id(constant) in codes else constant for constant in code.co_consts)
            copies[id(code)] = code.replace(co_consts=constants)
        return copies[id(code)]

    for code in codes.values():
        copy(code)
    return copies


def settle() -> list[bytes]:
    """Clear the type cache, collect garbage, fill the gaps, and exclude all objects from the collector.

    The caller must keep the returned objects for the life of the process.
    """
    if hasattr(sys, "_clear_type_cache"):
        sys._clear_type_cache()
    gc.collect()
    gc.disable()
    fillers = [filler for size in _SIZES for filler in _fillers(size)]
    gc.freeze()
    return fillers


def _fillers(size: int) -> list[bytes]:
    """Make objects until one pool holds nothing else. That pool is new, so no gap was left."""
    room = (_POOL_BYTES - _POOL_HEADER) // size
    fillers: list[bytes] = []
    pool, there = 0, 0
    while there < room and len(fillers) < _MOST:
        filler = bytes(size - 33)
        fillers.append(filler)
        there = there + 1 if id(filler) // _POOL_BYTES == pool else 1
        pool = id(filler) // _POOL_BYTES
    return fillers
