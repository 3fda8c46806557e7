"""What a warm process does to its memory before it is forked, so that its children share as much of it as they can.

A child shares a page until somebody writes to it. What the collector writes while it looks at objects is the largest part of
that, and freezing takes it away (a child holds 25 MB without it, 3 with it). Of what is left, a tenth is due to new objects:
Python's allocator puts them where old ones have left gaps, each in a page that the child must copy first. The rest is counts of
references. A call counts one to its code; an attribute that the cache of types does not know counts one to a name less, that of
whatever it puts out of the cache.
"""

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, FunctionType

_POOL_BYTES = 16_384
_POOL_HEADER = 48
_SIZES = range(48, 513, 16)
"""Objects that Python's own allocator serves, a pool for each size; a smaller one than 33 bytes is no `bytes`."""
_MOST = 50_000
"""Fillers of one size; a process in order needs a few hundred."""
_HERE = str(Path(__file__).parent)


def gather(run: Callable[[], object]) -> None:
    """Put the code that `run` goes through, and that of these modules, side by side: where it was when it was imported, every page
    holds little of it. What the interpreter has learned of it is lost: it must run some more."""
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
    first = _copies(used)  # for the gaps that there are
    copies = _copies(used)
    for function, code in zip(functions, codes, strict=True):
        if id(code) in copies:
            function.__code__ = copies[id(code)]
    del first


def _copies(codes: dict[int, CodeType]) -> dict[int, CodeType]:
    """Of each code, by the same number; that of a function within another one is copied within its copy."""
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
    """Forget what the cache of types holds, collect, close the gaps, keep the collector from all that is here. What is returned
    must live as long as the process."""
    if hasattr(sys, "_clear_type_cache"):
        sys._clear_type_cache()
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
