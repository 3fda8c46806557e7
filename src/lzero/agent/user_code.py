"""Run a user's code: a tool, an agent, an environment, a reward.

An exception becomes a value (`Raised`). `words` describes it in one sentence, and `Bugs` logs its traceback once. `Watched` measures how
long the code blocks the event loop. `outcome_in_time` cancels code that takes too long.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import lzero
from lzero.agent.outputs import cut
from lzero.text import unbroken

logger = logging.getLogger(__name__)

T = TypeVar("T")
BLOCKING_S = 2.0
"""Seconds after which `async` code that blocks the event loop is logged as a warning."""
CLEANUP_S = 5.0
"""Seconds that cancelled code has to clean up; it is then abandoned."""
MAX_CHARS = 2_000
"""Longest exception message that a failure keeps."""
MAX_TRACEBACK_CHARS = 20_000
MAX_LOGGED = 32
"""Maximum number of tracebacks that a run logs."""
_OURS = str(Path(lzero.__file__).parent)


class Bugs:
    """Log of bugs, each once; otherwise a training run would repeat a traceback a thousand times."""

    def __init__(self) -> None:
        self._seen: set[tuple[object, ...]] = set()
        self._blocking: set[str] = set()

    def log(self, who: str, error: BaseException) -> None:
        """Log the traceback of `error`, which `who` raised, unless one of its type and place was logged before."""
        frames = list(_frames(error.__traceback__))
        place = (frames[-1].tb_frame.f_code.co_filename, frames[-1].tb_lineno) if frames else ()
        bug = (who, type(error), *place)
        if bug in self._seen or len(self._seen) >= MAX_LOGGED:
            return
        self._seen.add(bug)
        theirs = next((frame for frame in frames if not _is_ours(frame)), error.__traceback__)
        text = "".join(traceback.TracebackException(type(error), error, theirs, compact=True).format())
        logger.error("%s raised an exception:\n%s", who, cut(unbroken(text), MAX_TRACEBACK_CHARS).rstrip())

    def log_blocking(self, who: str, blocked_s: float) -> None:
        """Warn, once for each `who`, that its `async` code blocked the event loop for `blocked_s` seconds."""
        if who not in self._blocking:
            self._blocking.add(who)
            logger.warning(
                "%s blocked the event loop for %.1f s, and all other episodes with it: make it a plain function, which runs in a thread, "
                "or await what takes long",
                who,
                blocked_s,
            )


@dataclass(frozen=True)
class Raised:
    """An exception as a value."""

    error: BaseException


async def outcome_of(act: Callable[[], Awaitable[T]], who: str, bugs: Bugs) -> T | Raised:
    """Run a user's `async` code, and return its result or its exception. The log names `who`.

    It may raise the exceptions that control asyncio: TimeoutError of its own `wait_for`, CancelledError, SystemExit. An exception that this
    function raises is lzero's own: KeyboardInterrupt, or CancelledError of the current task.
    """
    task = asyncio.current_task()
    assert task is not None
    try:
        return await Watched(act(), who, bugs)
    except KeyboardInterrupt:  # Ctrl-C: one that a function raises in its thread comes as another exception
        raise
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and task.cancelling():
            raise
        return Raised(error)


class Late(Exception):
    """A user's code did not end within its deadline."""


async def outcome_in_time(
    act: Callable[[], Awaitable[T]], who: str, bugs: Bugs, deadline: AbstractAsyncContextManager[object]
) -> T | Raised:
    """Run a user's `async` code as `outcome_of` does, in a task of its own. Raises Late if it has not ended when `deadline` expires.

    Code that is late, or whose caller is cancelled, is cancelled and has CLEANUP_S to clean up.
    """
    acting = asyncio.create_task(outcome_of(act, who, bugs))
    try:
        with suppress(TimeoutError):
            async with deadline:
                await asyncio.wait({acting})
        if not acting.done():
            raise Late
        return acting.result()
    finally:
        if not acting.done():
            acting.cancel()
            await asyncio.wait({acting}, timeout=CLEANUP_S)


class Watched(Generic[T]):
    """An awaitable of a user's code that measures how long each of its steps blocks the event loop, which all episodes share.

    If it ignores a cancellation, it is abandoned at the next one, so that the process can end.
    """

    def __init__(self, awaitable: Awaitable[T], who: str, bugs: Bugs) -> None:
        self._awaitable = awaitable
        self._who = who
        self._bugs = bugs

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._awaitable.__await__()
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            start = time.monotonic()
            try:
                waits_for = steps.send(sent) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                answer: T = end.value
                return answer
            finally:
                if (blocked_s := time.monotonic() - start) > BLOCKING_S:
                    self._bugs.log_blocking(self._who, blocked_s)
            try:
                sent, thrown = (yield waits_for), None
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                # It ignored the first cancellation, so it is abandoned. anyio cancels the task repeatedly to leave its own scope.
                if task is not None and task.cancelling() > 1 and not _leaves_a_scope(error):
                    with suppress(RuntimeError):  # it may ignore that, too
                        steps.close()
                    raise
                sent, thrown = None, error
            except BaseException as error:
                sent, thrown = None, error


def _leaves_a_scope(error: asyncio.CancelledError) -> bool:
    """Return whether anyio, which HTTP clients use, cancelled the task; the cancelled code then catches this itself."""
    return bool(error.args) and str(error.args[0]).startswith("Cancelled via cancel scope")


def words(error: BaseException) -> str:
    """Return type and message of an exception and of the members of a group: "TimeoutError: no answer after 2 s"."""
    lines = [_line(error)]
    if isinstance(error, BaseExceptionGroup):
        lines += map(_line, leaves(error))
    return cut(unbroken("; ".join(lines)), MAX_CHARS)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the members of an exception group and of its inner groups, or the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def _line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # its own __str__ is broken, too
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _frames(start: TracebackType | None) -> Iterator[TracebackType]:
    while start is not None:
        yield start
        start = start.tb_next


def _is_ours(frame: TracebackType) -> bool:
    return frame.tb_frame.f_code.co_filename.startswith(_OURS)
