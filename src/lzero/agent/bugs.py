"""Report exceptions of a user's code: as one sentence for the failure, and once with a traceback in the log."""

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import lzero
from lzero.agent.outputs import cut, unbroken

logger = logging.getLogger(__name__)

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
