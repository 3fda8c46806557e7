"""The time that a cell has: what the host's tools take is not its own."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from lzero.types import Execution, Output

GRACE_S = 1.0
"""What a cell has, after the interrupt, to come to its end."""
_AGAIN_S = 0.7
"""When, in its grace, a cell is interrupted again: one that waits for its worker processes, for example, has met the first interrupt
and waits on."""


class Clock:
    """Starts when the cell does."""

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
        """When its time is over, by the loop's clock. Raises TimeoutError where it is already: calls that wait in a buffer are no
        way around the deadline."""
        if self.duration_s > self._allowed_s:
            raise TimeoutError
        return self._started + self._waited + self._allowed_s

    def allow(self, more_s: float) -> None:
        """So much, from now on."""
        self._allowed_s = self.duration_s + more_s

    def interrupt(self) -> None:
        """At its deadline, and again in its grace: there is a little more time. Raises TimeoutError the third time."""
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
        """Of a cell that came to its end, with the interrupt or without."""
        late = f"interrupted after {self._deadline_s:g} s" if self.interrupts else ""
        return Execution(outputs=outputs, status="timed_out" if late else status, duration_s=duration_s, reason=late)
