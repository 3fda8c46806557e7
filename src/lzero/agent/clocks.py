"""The two clocks of an episode. As with a chess clock, one of them runs at any moment.

    the agent's   its cells, and the tools that they call
    lzero's       everything else: the engine, opening a session, queues that episodes share while no call of the cell is served

When the agent's time is up, its episode is out of time, and scored. When lzero's time is up, the episode is lost, and not scored. No cell
and no tool call makes that clock run, so an agent cannot lose its episode by being slow.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lzero.turns import CallersClock, Clock


class Clocks:
    """The two clocks of one episode; lzero's runs first. The agent's is stopped while all calls of a cell wait in queues."""

    def __init__(self, *, agent_s: float) -> None:
        self.agent_s = agent_s
        self.lzero = Clock()
        self.agent = CallersClock(opposite=self.lzero)
        self.agent.stop()

    @property
    def left_s(self) -> float:
        """Seconds that the agent has left, at least 0."""
        return max(0.0, self.agent_s - self.agent.worked_s)

    @contextmanager
    def agents_turn(self) -> Iterator[None]:
        """Run the agent's clock in the block, in which a cell runs."""
        self.agent.go_on()
        try:
            yield
        finally:
            self.agent.stop()
