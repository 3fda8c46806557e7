"""Run a function that reads untrusted input in a fork of this process, with limits on memory and time.

Input that makes its reader loop, grow or crash ends only the fork.
"""

import ctypes
import logging
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable
from typing import NoReturn

import msgspec

logger = logging.getLogger(__name__)

SCORER_CPU_S = 4
"""Seconds of processor time that a scorer of an answer may take. Hostile answers use all of it."""
SCORER_S = 40.0
"""Wall seconds that it may take: many more, because right answers must not score 0 while hostile ones use the cores."""
SCORER_BYTES = 1 << 28
MAX_REASON_CHARS = 10_000
_PR_SET_PDEATHSIG = 1


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The function's return value, or the exception that it raised."""

    text: str = ""
    raised: tuple[str, ...] = ()
    """Names of the exception's class and of those that it derives from."""
    reason: str = ""
    """First line of the exception's message."""


def run_apart(function: Callable[[], str], *, seconds: float, memory_bytes: int, cpu_s: int | None = None) -> Outcome:
    """Run `function` in a fork of this process, and return its return value or exception.

    If it is not done after `seconds`, or after `cpu_s` seconds of processor time, the outcome is a TimeoutError; if the fork crashes, a
    RuntimeError. `memory_bytes`: address space in addition to that of this process.
    """
    readable, writable = os.pipe()
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: the child takes no lock of theirs
        child = os.fork()
    if child == 0:
        _answer(function, writable, memory_bytes, cpu_s, parent)
    os.close(writable)
    try:
        answer = _read(readable, deadline=time.monotonic() + seconds)
    finally:
        os.close(readable)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if answer is None:
        return Outcome(raised=("TimeoutError",), reason=f"it is not done after {seconds:g} s")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return Outcome(raised=("TimeoutError",), reason=f"it is not done after {cpu_s} s of processor time")
    try:
        return msgspec.json.decode(answer, type=Outcome)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Outcome(raised=("RuntimeError",), reason="the process that reads it crashed")


def score_apart(scorer: Callable[[], str], *, name: str, answer: str) -> str | None:
    """Return the result of a scorer of an agent's answer that runs in a fork; None, with a warning, if it fails or exceeds a limit.

    `name`: the scorer, in the warning. Raises OSError if this machine cannot make a fork.
    """
    done = run_apart(scorer, seconds=SCORER_S, memory_bytes=SCORER_BYTES, cpu_s=SCORER_CPU_S)
    if not done.raised:
        return done.text
    logger.warning("%s raised %s (%s) on the answer %.200r, which scores 0", name, done.raised[0], done.reason, answer)
    return None


def _answer(function: Callable[[], str], writable: int, memory_bytes: int, cpu_s: int | None, parent: int) -> NoReturn:
    """Run the function, write the outcome, and always end this process. It also ends if its parent does."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)  # the parent has ended already
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # drops the messages of a library that aborts
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, used + memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if cpu_s is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))  # the first sends SIGXCPU, the second SIGKILL
        try:
            outcome = Outcome(text=function())
        except BaseException as error:
            names = tuple(kind.__name__ for kind in type(error).__mro__)
            reason = str(error).strip().partition("\n")[0][:MAX_REASON_CHARS]
            outcome = Outcome(raised=names, reason=reason)
        left = memoryview(msgspec.json.encode(outcome))
        while left:
            left = left[os.write(writable, left) :]
    finally:
        os._exit(0)


def _read(readable: int, *, deadline: float) -> bytes | None:
    """Return all that is written to a pipe; None if it is still open at the deadline."""
    pieces: list[bytes] = []
    ready = select.poll()  # unlike select, it takes descriptors from 1,024 on
    ready.register(readable, select.POLLIN)
    while ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
        piece = os.read(readable, 1 << 16)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
    return None
