"""Measure the time of a cell, without the time of the host's tools."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from lzero.types import Execution, Output

GRACE_S = 1.0
"""Seconds that a cell has to end after the interrupt."""
_AGAIN_S = 0.7
"""Seconds after the first interrupt at which a cell is interrupted again. One that waits for its worker processes, for example, may have
met the first interrupt and gone on waiting.
"""


class Clock:
    """The clock of one cell, which starts with it."""

    def __init__(self, deadline_s: float) -> None:
        self._now = asyncio.get_running_loop().time
        self._started = self._now()
        self._waited = 0.0
        self._deadline_s = self._allowed_s = deadline_s
        self.interrupts = 0
        """Number of interrupts that the cell was sent."""

    @property
    def duration_s(self) -> float:
        return self._now() - self._started - self._waited

    def until(self) -> float:
        """Return the deadline, by the event loop's clock. Raises TimeoutError if it has passed, so calls that wait in a buffer cannot evade
        it."""
        if self.duration_s > self._allowed_s:
            raise TimeoutError
        return self._started + self._waited + self._allowed_s

    def allow(self, more_s: float) -> None:
        """Move the deadline to `more_s` seconds from now."""
        self._allowed_s = self.duration_s + more_s

    def interrupt(self) -> None:
        """Count an interrupt, and extend the deadline a little. Raises TimeoutError the third time."""
        if self.interrupts == 2:
            raise TimeoutError
        self.allow(GRACE_S - _AGAIN_S if self.interrupts else _AGAIN_S)
        self.interrupts += 1

    @contextmanager
    def stopped(self) -> Iterator[None]:
        asked = self._now()
        try:
            yield
        finally:
            self._waited += self._now() - asked

    def execution(self, status: Literal["ok", "error"], outputs: tuple[Output, ...], duration_s: float) -> Execution:
        """Return the execution of a cell that ended, interrupted or not."""
        late = f"interrupted after {self._deadline_s:g} s" if self.interrupts else ""
        return Execution(outputs=outputs, status="timed_out" if late else status, duration_s=duration_s, reason=late)
