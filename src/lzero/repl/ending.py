"""Record why a REPL has ended. Later requests to it raise ReplDied with this reason."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from lzero.errors import LzeroError, ReplDied, ReplError

_HAS_ENDED = "this REPL has ended: "


class Ending:
    """The state of one REPL: alive and idle, at work, or ended with a reason."""

    def __init__(self) -> None:
        self.why = ""
        """The reason why it ended; "" while it lives."""
        self.at_work = False
        self.in_call = False
        """Whether its cell waits for a tool's answer. Files may be read meanwhile."""

    @contextmanager
    def call(self) -> Iterator[None]:
        """Mark that the host answers a tool call of the cell during the block."""
        self.in_call = True
        try:
            yield
        finally:
            self.in_call = False

    @contextmanager
    def unless_done(self, what: str, *refusals: type[LzeroError]) -> Iterator[None]:
        """Run one request during the block. If it does not complete, the REPL has ended, unless it raised one of `refusals`.

        Raises ReplDied if the REPL had already ended.
        """
        self.check()
        self.why, self.at_work = f"its last {what} was abandoned", True
        try:
            yield
        except refusals:
            self.why = ""
            raise
        except ReplError as error:
            self.why = str(error).removeprefix(_HAS_ENDED)
            raise
        else:
            self.why = ""
        finally:
            self.at_work = False

    def check(self) -> None:
        """Raise ReplDied if the REPL has ended."""
        if self.why:
            raise ReplDied(_HAS_ENDED + self.why)


def how_ended(code: int) -> str:
    """Describe in words how a process ended, from its exit code. A negative code is a signal."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-code}"
