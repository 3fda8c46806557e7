"""The time that a cell has had: what the host's tools take is not its own."""


class Clock:
    """Starts when the cell does; times are those of the event loop's clock."""

    def __init__(self, started: float) -> None:
        self._started = started
        self.waited = 0.0

    def until(self, allowed_s: float) -> float:
        return self._started + self.waited + allowed_s

    def duration(self, now: float) -> float:
        return now - self._started - self.waited

    def check(self, now: float, allowed_s: float) -> None:
        if self.duration(now) > allowed_s:
            raise TimeoutError
