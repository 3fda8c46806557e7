"""The two clocks of an episode. As with a chess clock, one of them runs at any moment.

    the agent's   its cells, the tools that they call, and opening another session after a cell has killed the last one
    lzero's       everything else: the engine, opening the first session, queues that episodes share while no call of the cell is served

When the agent's time is up, its episode is out of time, and scored. When lzero's time is up, the episode is lost, and not scored. Cells and
tool calls do not make lzero's clock run, so an agent cannot lose its episode by being slow.

Nor can it by making many calls that wait. A busy machine makes each call wait, but the agent chooses the number of calls. So as soon as
more calls than one per cell have waited, further waits count on lzero's clock only while it has seconds to spare, which neither later
replies nor sandboxes may need. After that they count on the agent's.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

from lzero.turns import CallersClock, Clock


class Clocks:
    """The two clocks of one episode; lzero's runs first. The agent's is stopped while all calls of a cell wait in queues."""

    def __init__(self, *, agent_s: float, spare_s: Callable[[], float] = lambda: math.inf) -> None:
        """`agent_s`: seconds of the agent. `spare_s` returns the seconds that lzero can spare for waits in queues."""
        self.agent_s = agent_s
        self.lzero = Clock()
        self.agent = CallersClock(opposite=self.lzero, spare_s=spare_s)
        self.agent.stop()

    @property
    def left_s(self) -> float:
        """Seconds that the agent has left, at least 0."""
        return max(0.0, self.agent_s - self.agent.worked_s)

    @property
    def is_agents(self) -> bool:
        """Whether the agent has used more of the episode's time than lzero. Waits that the agent multiplied count as the agent's here."""
        multiplied_s = self.agent.multiplied_s
        return self.agent.worked_s + multiplied_s > self.lzero.worked_s - multiplied_s

    def agents_time(self) -> AbstractAsyncContextManager[asyncio.Timeout]:
        """Limit the block, like `asyncio.timeout`, to the seconds that the agent has left."""
        return self.agent.at_most(self.left_s)

    @contextmanager
    def agents_turn(self) -> Iterator[None]:
        """Run the agent's clock during the block, in which a cell runs."""
        self.agent.cells += 1
        self.agent.go_on()
        try:
            yield
        finally:
            self.agent.stop()
