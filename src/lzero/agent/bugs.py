"""Bugs of code that a user brings: told in a sentence, and logged with their traceback the first time."""

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import lzero
from lzero.agent.outputs import cut, unbroken

logger = logging.getLogger(__name__)

MAX_CHARS = 2_000
"""Characters of an exception's own words in a failure."""
MAX_TRACEBACK_CHARS = 20_000
MAX_LOGGED = 32
"""Different bugs of a run whose traceback is logged."""
_OURS = str(Path(lzero.__file__).parent)


class Bugs:
    """Logs the traceback of each different bug of a run once: a training run would repeat it a thousand times."""

    def __init__(self) -> None:
        self._seen: set[tuple[object, ...]] = set()
        self._blocking: set[str] = set()

    def tell(self, who: str, error: BaseException) -> None:
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

    def tell_blocking(self, who: str, blocked_s: float) -> None:
        """Log a warning, once for each `who`, that its `async` code did not let others run for so long."""
        if who not in self._blocking:
            self._blocking.add(who)
            logger.warning(
                "%s blocked the event loop for %.1f s, and all other episodes with it: make it a plain function, which runs in a thread, "
                "or await what takes long",
                who,
                blocked_s,
            )


def words(error: BaseException) -> str:
    """The type and the message of an exception, with those that a group holds: "TimeoutError: no answer after 2 s"."""
    lines = [_line(error)]
    if isinstance(error, BaseExceptionGroup):
        lines += map(_line, leaves(error))
    return cut(unbroken("; ".join(lines)), MAX_CHARS)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that a group holds, of its inner groups too; the exception itself where it is no group."""
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
