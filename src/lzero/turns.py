"""Fair turns at resources that all episodes share (a reader of files, an MCP server, a rate of calls), and a call's time without queues.

    readers = Turns(2, "a reader of files")

    async with readers.turn():                      # waits for a place, while the call's clock is stopped
        async with call_clock().at_most(45.0):      # 45 seconds from here
            …

Episodes take turns: however many calls of one episode wait, the next free place goes to the episode that has waited longest for its turn. A
wait has its own deadline. Exceeding it is lzero's failure, not the tool's or the agent's.

The event loop is such a resource, too: `in_turns` lets others have it while a stranger's data is read.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from lzero.errors import HelperBusy, ToolError

QUEUE_S = 600.0
"""Seconds that one call may spend in queues."""
MAX_WAITING = 64
"""The most calls of one episode that may wait for the same resource."""
PART_BYTES = 4096
"""The most bytes of a stranger that are handled before others may have the event loop: some milliseconds' work, whatever they are."""
TURN_S = 5e-3
"""Seconds after which others have the event loop."""
_ROUNDING_S = 1e-6
"""Seconds by which an alarm may ring early."""
_SHORT_S = 1e-3
"""Seconds to spare that count as none."""


class Clock:
    """Stopwatch with deadlines. It counts seconds of work, in which it is not stopped. Starts running."""

    def __init__(self, *, opposite: "Clock | None" = None) -> None:
        """`opposite`: a clock that runs only while this one is stopped."""
        self._opposite = opposite
        self._started = _now()
        self._before_s = 0.0
        self._stopped_at: float | None = None
        self._stops = 0
        self._due: dict[asyncio.Timeout, float] = {}
        """Open deadlines, each with the seconds of work at which it passes."""
        self._alarm: asyncio.TimerHandle | None = None
        """Calls `_ring` when the next deadline passes, or earlier if the clock was stopped meanwhile."""
        if opposite is not None:
            opposite.stop()

    @property
    def stopped_s(self) -> float:
        """Seconds in which it was stopped so far."""
        return self._before_s + (0.0 if self._stopped_at is None else _now() - self._stopped_at)

    @property
    def worked_s(self) -> float:
        """Seconds of work so far."""
        until = _now() if self._stopped_at is None else self._stopped_at
        return until - self._started - self._before_s

    @asynccontextmanager
    async def at_most(self, seconds: float) -> AsyncIterator[asyncio.Timeout]:
        """Limit the block like `asyncio.timeout(seconds)`, without the seconds in which the clock is stopped."""
        async with asyncio.timeout(None) as deadline:
            self._due[deadline] = self.worked_s + seconds
            self._ring()
            try:
                yield deadline
            finally:
                del self._due[deadline]
                self._ring()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the block's seconds. Blocks may overlap."""
        self.stop()
        try:
            yield
        finally:
            self.go_on()

    def stop(self) -> None:
        """Stop until the matching `go_on`."""
        self._stops += 1
        if self._stops == 1:
            self._stopped_at = _now()
            if self._opposite is not None:
                self._opposite.go_on()

    def go_on(self) -> None:
        """Run again, once each `stop` has its `go_on`."""
        self._stops -= 1
        if self._stops == 0:
            self._before_s, self._stopped_at = self.stopped_s, None
            if self._alarm is None:
                self._ring()
            if self._opposite is not None:
                self._opposite.stop()

    def _ring(self) -> None:
        """End the blocks whose deadlines have passed, and set the alarm for the next. A stop leaves the alarm, because most deadlines are
        far: setting it anew for every cell of an agent would cost more than one alarm that rings too early."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        left_s, worked_s = math.inf, self.worked_s
        for deadline, due_s in self._due.items():
            still_s = due_s - worked_s
            if still_s > _ROUNDING_S:
                left_s = min(left_s, still_s)
            elif not deadline.expired():
                deadline.reschedule(_now())
        if left_s < math.inf and not self._stops:
            self._alarm = asyncio.get_running_loop().call_later(left_s, self._ring)


class CallersClock(Clock):
    """The time of work that makes calls. It is stopped while calls are open and all of them wait in a queue.

    So a call that waits behind others of its own caller waits on the caller's time. A caller of many calls multiplies its waits. While more
    calls than one per cell have waited, its clock is stopped only as long as there are seconds to spare.
    """

    def __init__(self, *, opposite: Clock | None = None, spare_s: Callable[[], float] = lambda: math.inf) -> None:
        """`spare_s` returns the seconds that may be spent on waits from now on, minus those of a current wait."""
        super().__init__(opposite=opposite)
        self._spare_s = spare_s
        self._calls = self._waiting = 0
        self._waits = 0
        """Number of calls that have waited."""
        self._pause: Clock | None = None
        """Runs while the calls' waits stop this clock."""
        self._paused_s = 0.0
        self._end: asyncio.TimerHandle | None = None
        self.cells = 0
        """Number of pieces of work that were started."""

    @property
    def multiplied_s(self) -> float:
        """Seconds in which waits stopped this clock, without the share that one call per cell would have waited."""
        waited_s = self._paused_s + (self._pause.worked_s if self._pause is not None else 0.0)
        return waited_s * (1.0 - self.cells / self._waits) if self._multiplies else 0.0

    @property
    def _multiplies(self) -> bool:
        return self._waits > self.cells

    def count(self, *, calls: int = 0, waiting: int = 0, waits: int = 0) -> None:
        """Add to the number of open calls, of those that wait, and of those that have waited."""
        self._calls += calls
        self._waiting += waiting
        self._waits += waits
        self._settle()

    def _settle(self) -> None:
        """Stop if every call waits and may do so on the opposite clock; otherwise go on."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        pauses = 0 < self._calls == self._waiting
        if pauses and self._multiplies:
            spare_s = self._spare_s()
            pauses = spare_s > _SHORT_S
            if pauses and spare_s < math.inf:
                self._end = asyncio.get_running_loop().call_later(spare_s, self._settle)
        if pauses and self._pause is None:
            self._pause = Clock()
            self.stop()
        elif self._pause is not None and not pauses:
            self._paused_s += self._pause.worked_s
            self._pause = None
            self.go_on()


class CallClock(Clock):
    """The time of one call; it is stopped while the call waits in a queue."""

    def __init__(
        self, owner: Hashable = None, *, queue_s: float = QUEUE_S, callers: CallersClock | None = None
    ) -> None:
        """`owner`: the episode, whose calls share its turns; None for a call outside of any episode. `callers`: the episode's clock, which
        counts this call from now until `end`."""
        super().__init__()
        self.owner = self if owner is None else owner
        self._queue_s = queue_s
        self.behind_own = False
        """Whether it waits, or has waited, behind a call of its own episode."""
        self._has_waited = False
        self._callers = callers
        if callers is not None:
            callers.count(calls=1)

    def stop(self) -> None:
        super().stop()
        if self._stops == 1 and self._callers is not None:
            self._callers.count(waiting=1, waits=0 if self._has_waited else 1)
            self._has_waited = True

    def go_on(self) -> None:
        super().go_on()
        if self._stops == 0 and self._callers is not None:
            self._callers.count(waiting=-1)

    def end(self) -> None:
        """End the call. Call it once."""
        if self._callers is not None:
            self._callers.count(calls=-1, waiting=-1 if self._stops else 0)
            self._callers = None

    @property
    def queued_s(self) -> float:
        """Seconds spent in queues so far."""
        return self.stopped_s

    @asynccontextmanager
    async def queueing(self, what: str, *, advice: str = "") -> AsyncIterator[None]:
        """Wait for `what` in the block.

        When the call has spent `queue_s` seconds in queues, raises HelperBusy, or ToolError, the agent's fault, if it waited behind calls
        of its own episode.
        """
        try:
            with self.stopped():
                async with asyncio.timeout(max(0.0, self._queue_s - self.queued_s)) as patience:
                    yield
        except TimeoutError:
            if not patience.expired():
                raise
            if self.behind_own:
                raise ToolError(
                    f"waited {self._queue_s:g} s in the queue for {what}, behind other calls of yours: make fewer at once",
                    fault="agent",
                ) from None
            raise HelperBusy(
                f"waited {self._queue_s:g} s in the queue for {what}; {advice or 'run fewer episodes at once (rollout.concurrency)'}"
            ) from None


CLOCK: ContextVar[CallClock | None] = ContextVar("CLOCK", default=None)


def call_clock() -> CallClock:
    """Return the clock of the call that this code works for; a new one outside of any call."""
    return CLOCK.get() or CallClock()


class Turns:
    """Places at a resource that all episodes share. Not bound to an event loop."""

    def __init__(
        self, places: int, what: str, *, advice: str = "", one_by_one: bool = False, max_waiting: int = MAX_WAITING
    ) -> None:
        """`what` completes "waited in the queue for"; `advice` says how to shorten the wait. `max_waiting` bounds the waiting calls of one
        episode.

        `one_by_one`: the resource may serve its places one after another, without notice. The time of a call then begins when all calls
        that took a place before it have left.
        """
        self._free = places
        self._what = what
        self._advice = advice
        self._one_by_one = one_by_one
        self._max_waiting = max_waiting
        self._inside: dict[object, CallClock] = {}
        """Calls that hold a place, in the order in which they took it."""
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        """Calls that wait, by episode, in the order of the episodes' turns."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a place in the block.

        Raises HelperBusy if none becomes free in time. Raises ToolError, the agent's fault, if `max_waiting` calls of its episode already
        wait, or none becomes free in time behind these.
        """
        clock, place = call_clock(), object()
        await self._enter(clock)
        self._inside[place] = clock
        if self._one_by_one and len(self._inside) > 1:
            clock.stop()
        try:
            yield
        finally:
            self._leave(place)

    async def _enter(self, clock: CallClock) -> None:
        if self._free:
            self._free -= 1
            return
        queue = self._waiting.setdefault(clock.owner, deque())
        if len(queue) >= self._max_waiting:
            raise ToolError(
                f"{self._max_waiting} calls wait in the queue for {self._what} already: wait for their answers first",
                fault="agent",
            )
        clock.behind_own = clock.behind_own or bool(queue)
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(called)
        try:
            async with clock.queueing(self._what, advice=self._advice):
                await called
        except BaseException:
            if called in queue:
                queue.remove(called)
                if not queue:
                    del self._waiting[clock.owner]
            elif not called.cancelled():  # its turn came, but the call is gone
                self._pass_on()
            raise

    def _leave(self, place: object) -> None:
        was_first = place is next(iter(self._inside))
        clock = self._inside.pop(place)
        if self._one_by_one and not was_first:
            clock.go_on()
        elif self._one_by_one and self._inside:
            next(iter(self._inside.values())).go_on()
        self._pass_on()

    def _pass_on(self) -> None:
        """Give a free place to the next episode in turn. Its other calls then wait behind those of all others."""
        while self._waiting:
            owner = next(iter(self._waiting))
            queue = self._waiting.pop(owner)
            called = queue.popleft()
            if queue:
                self._waiting[owner] = queue
            if not called.done():  # else it was cancelled
                called.set_result(None)
                return
        self._free += 1


async def in_turns(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the pieces in parts of PART_BYTES. Whenever TURN_S seconds have passed, everything else that is ready runs first.

    A library that decodes a stream does not stop for others as long as there is data, and a piece may hold thousands of events, or come in
    thousands of chunks.
    """
    since = _now()
    async for piece in pieces:
        for start in range(0, len(piece), PART_BYTES):
            yield piece[start : start + PART_BYTES]
            if _now() - since > TURN_S:
                await asyncio.sleep(0)
                since = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
