"""Why a REPL has ended, which is what whoever goes on asking is told."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from lzero.errors import LzeroError, ReplDied, ReplError

_HAS_ENDED = "this REPL has ended: "


class Ending:
    """Of one REPL."""

    def __init__(self) -> None:
        self.why = ""
        """Empty while it lives."""
        self.at_work = False
        self.in_call = False
        """Whether its cell waits for the answer of a tool: files may be read meanwhile."""

    @contextmanager
    def call(self) -> Iterator[None]:
        """While a tool call of the cell is answered."""
        self.in_call = True
        try:
            yield
        finally:
            self.in_call = False

    @contextmanager
    def unless_done(self, what: str, *refusals: type[LzeroError]) -> Iterator[None]:
        """One thing at a time; what does not come to its end is the REPL's. One of `refusals` is an end, and the REPL lives on.

        Raises ReplDied where the REPL has ended before.
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
        """Raises ReplDied where it has ended."""
        if self.why:
            raise ReplDied(_HAS_ENDED + self.why)


def how_ended(code: int) -> str:
    """A process, in words, by its exit code; a negative one is a signal."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-code}"
