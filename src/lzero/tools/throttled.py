"""Pause calls to a service that limits their rate.

Throttled(tool, seed=7)

the service refuses a call    all episodes wait for as long as it asks
after that                    calls take turns, refused ones first, until none waits
"""

import asyncio
import random
from contextlib import suppress

from lzero.protocols import Tool, ToolContext
from lzero.tools.retry import AskedTooOften, Backoff
from lzero.tools.wrapper import Wrapper
from lzero.turns import Turns, call_clock
from lzero.types import Json

PLACES = 4
"""The most calls at once, of all episodes, that take turns after a pause."""
MAX_WAITING = 8
"""The most calls of one episode that may wait for a place, so an episode that floods the service waits behind few of its own."""
PAUSES = Backoff(longest_s=60.0)
"""Pauses after one refusal, two consecutive ones, …; the service may ask for a longer one, up to `longest_s`."""


class Throttled(Wrapper):
    """Pauses the calls of all episodes when the service reports too many. Such waits count as seconds in a queue."""

    def __init__(self, tool: Tool, *, seed: int = 0) -> None:
        super().__init__(tool)
        self._source = random.Random(seed)
        self._turns = Turns(PLACES, f"{tool.name}, whose service is asked too often", max_waiting=MAX_WAITING)
        self._in_line = 0
        self._refusals = 0
        """Number of consecutive refusals."""
        self._refused_at = self._resume_at = 0.0
        """Times by the event loop's clock."""
        self._said = ""

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Call the tool, after pauses if necessary. Raises what the tool raises, except for AskedTooOften; HelperBusy if the service
        refuses for too long."""
        if not self._in_line and _now() >= self._resume_at:
            with suppress(AskedTooOften):
                return await self._ask(arguments, context)
        self._in_line += 1
        try:
            async with self._turns.turn():
                while True:
                    await self._pause()
                    with suppress(AskedTooOften):
                        return await self._ask(arguments, context)
        finally:
            self._in_line -= 1

    async def _ask(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        asked_at = _now()
        try:
            answer = await self.tool.call(arguments, context)
        except AskedTooOften as error:
            if asked_at >= self._refused_at:  # else it was under way already when another one was refused
                self._refusals += 1
            self._refused_at, self._said = _now(), str(error)
            pause_s = max(PAUSES.pause_s(self._refusals, self._source), error.retry_after_s)
            self._resume_at = max(self._resume_at, _now() + min(pause_s, PAUSES.longest_s))
            raise
        self._refusals = 0
        return answer

    async def _pause(self) -> None:
        while (pause_s := self._resume_at - _now()) > 0.0:
            async with call_clock().queueing(f"{self.name} ({self._said})"):
                await asyncio.sleep(pause_s)


def _now() -> float:
    return asyncio.get_running_loop().time()
