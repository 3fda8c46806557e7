"""Watch a vLLM server, and restart it if it has ended or hangs.

    serving ──ends, hangs, fails transfers──▶ lost ──restart──▶ without weights ──transfer, probe──▶ serving
                                                └── joined, or restarted too often ──▶ given up

A server "without weights" still has the weights that it was started with, and gets no request of an episode. `/health` does not notice a
worker that hangs, so a server also counts as lost if requests run and it computes no token.
"""

import asyncio
import logging
import math
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from lzero.engine.vllm.places import Bell, Places
from lzero.engine.vllm.server import VLLMServer
from lzero.errors import EngineError, NoAnswer
from lzero.launch import Running

logger = logging.getLogger(__name__)
LOOK_S = 1.0
"""Seconds between two looks at a server."""
HANG_S = 60.0
"""Seconds in which a server with requests must have computed a token, unless engine.hang_s says otherwise."""
PATIENCE_S = 3600.0
"""Seconds to wait for servers that restart."""
RESTARTS = 3
"""The most restarts of a server under one policy version."""
POLL_S = 0.25
"""Seconds between two checks whether a server has started."""
State = Literal["serving", "lost", "without weights", "given up"]
UP: tuple[State, ...] = ("serving", "without weights")
"""States of a server whose process runs."""
Prepare = Callable[["Supervisor"], Awaitable[None]]


class OwnServer:
    """A server that lzero starts and restarts: its `process`, and `launch`, which starts another one.

    `start_s`: seconds in which it must answer.
    """

    def __init__(
        self, server: VLLMServer, process: Running, launch: Callable[[], Awaitable[Running]], *, start_s: float
    ) -> None:
        self.process = process
        self._server = server
        self._launch = launch
        self._start_s = start_s

    async def ready(self) -> None:
        """Wait until the server answers. Raises EngineError, which names a copy of the log, if it ends or takes too long."""
        await until_ready(self._server, self.process, start_s=self._start_s)

    async def restart(self) -> None:
        """Kill all processes of the server, start it, and wait until it answers. Raises EngineError as `ready` does."""
        await self.process.kill()
        self.process = await self._launch()
        await self.ready()

    async def end(self) -> None:
        await self.process.end()


async def until_ready(server: VLLMServer, process: Running, *, start_s: float) -> None:
    """Wait until the server answers. Raises EngineError if it ends, or takes longer than `start_s` seconds."""
    deadline = time.monotonic() + start_s
    while not await server.is_ready():
        if process.end_cause():
            raise EngineError(await _failed_start(server, process, "has ended"))
        if time.monotonic() > deadline:
            raise EngineError(
                await _failed_start(server, process, f"did not start within engine.start_s = {start_s:g}")
            )
        await asyncio.sleep(POLL_S)


async def _failed_start(server: VLLMServer, process: Running, problem: str) -> str:
    with tempfile.NamedTemporaryFile(prefix="lzero-vllm-", suffix=".log", delete=False) as kept:
        kept.write(await process.read("log"))
    return f"{server.name} {problem}; its log is in {Path(kept.name)}, which ends: {await process.tail()}"


class Supervisor:
    """Watches one server; restarts `own`, or gives up a server that was joined.

    `bell` rings when the state changes. `hang_s`: seconds in which a server with requests must have computed a token.
    """

    def __init__(self, server: VLLMServer, own: OwnServer | None, *, bell: Bell, hang_s: float) -> None:
        self.server = server
        self.own = own
        self.state: State = "serving"
        self.places = Places(bell, preemptions=None if own is None else 0)  # one that was joined may have made some
        self.restarts = 0
        self.has_weights = True
        """Whether the server has the weights of the current policy version."""
        self.paused = False
        """Whether sampling is paused. A paused server that computes no token does not hang."""
        self._problem = ""
        """Why the server was lost: the rest of a sentence that begins with its name."""
        self._bell = bell
        self._hang_s = hang_s
        self._running: set[asyncio.Timeout] = set()
        self._num_answered = 0
        self._progress = (0, 0, 0.0)
        """Requests answered, tokens computed, and the share of the cache in use, which grows with each part of a prompt; as last seen."""
        self._moved_at = time.monotonic()
        self._tries = 0
        """Restarts under the current policy version."""

    @property
    def serves(self) -> bool:
        return self.state == "serving"

    @property
    def takes_commands(self) -> bool:
        """Whether the server runs; one that was joined has to be asked each time."""
        return self.own is None or self.state in UP

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """Note that a request runs. Raises NoAnswer as soon as the server is lost."""
        try:
            async with asyncio.timeout(None) as cut:
                self._running.add(cut)
                try:
                    yield
                finally:
                    self._running.discard(cut)
        except TimeoutError:
            raise NoAnswer(f"{self.server.name} {self._problem}") from None
        self._num_answered += 1

    def admit(self, *, is_new_version: bool) -> None:
        """Let the server serve, unless it was lost since it got the weights of the current policy version."""
        if self.has_weights:
            self._tries = 0 if is_new_version else self._tries
            self._enter("serving")

    def await_weights(self) -> None:
        """Let the restarted server serve after the next transfer."""
        self._enter("without weights")

    def lose(self, problem: str) -> None:
        """End the requests in flight, and restart the server or give it up."""
        if self.state in ("lost", "given up"):
            return
        self._problem, self.has_weights = problem, False
        self._enter("given up" if self.own is None else "lost")
        for cut in self._running:
            cut.reschedule(asyncio.get_running_loop().time())

    def give_up(self, problem: str) -> None:
        """Send no request of an episode to the server, unless a later transfer succeeds."""
        self._problem, self.has_weights = problem, False
        self._enter("given up")

    def complaint(self) -> EngineError:
        """Return the error of a server that was given up."""
        remedy = "" if self.own else ": start it again as docs/training.md says, and resume the run"
        return EngineError(f"{self.server.name} {self._problem}{remedy}")

    async def is_lost(self) -> bool:
        """Return whether the server cannot serve now. Asks it, if nothing is known."""
        if self.state in UP and not await self.server.is_ready():
            self.lose("does not answer")
        return not self.serves

    async def watch(self, prepare: Prepare) -> None:
        """Watch the server until cancelled. `prepare` makes a restarted server ready, and may raise EngineError."""
        while True:
            if self.state == "lost":
                await self._restart(prepare)
            elif self.state != "given up" and (problem := await self._trouble()):
                self.lose(problem)
                continue
            await asyncio.sleep(LOOK_S)

    async def _restart(self, prepare: Prepare) -> None:
        assert self.own is not None
        if self._tries == RESTARTS:
            self.give_up(f"{self._problem} (lzero has restarted it {RESTARTS} times under one policy version)")
            return
        self._tries += 1
        self.restarts += 1
        logger.warning("%s %s: lzero restarts it", self.server.name, self._problem)
        try:
            await self.own.restart()
            await prepare(self)
        except EngineError as error:
            self._problem = f"did not start again: {error}"

    async def _trouble(self) -> str:
        """Return what is wrong with the server; "" if it works."""
        if self.own is not None and self.own.process.end_cause():
            return f"has ended; the end of its log: {await self.own.process.tail()}"
        now, seen = time.monotonic(), self._progress[1:]
        if self._has_work:
            try:
                load = await self.server.load(deadline_s=self._hang_s)
                seen = (load.tokens, load.cache_usage)
                self.places.saw(load)
            except NoAnswer:
                pass
            except EngineError:  # it answers, but does not tell its load
                self._moved_at = now
        progress = (self._num_answered, *seen)
        if progress != self._progress or not self._has_work:
            self._progress, self._moved_at = progress, now
        if now - self._moved_at < self._hang_s:
            return ""
        return f"has computed no token for {self._hang_s:g} s, while {len(self._running)} requests run"

    @property
    def _has_work(self) -> bool:
        """Whether the server must make progress."""
        return bool(self._running) and not self.paused and self._hang_s != math.inf

    def _enter(self, state: State) -> None:
        self.state = state
        self._moved_at = time.monotonic()
        self._bell.ring()


class Fleet:
    """All servers of an engine, each with its supervisor."""

    def __init__(self, *, hang_s: float = HANG_S) -> None:
        self.members: list[Supervisor] = []
        self.bell = Bell()
        """Rings when a server changes its state, or has a place for another request."""
        self._hang_s = hang_s
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, server: VLLMServer, own: OwnServer | None = None) -> None:
        self.members.append(Supervisor(server, own, bell=self.bell, hang_s=self._hang_s))

    def watch(self, prepare: Prepare) -> None:
        """Watch the servers until `close`, as `Supervisor.watch` does."""
        self._tasks = [asyncio.create_task(_watched(each, prepare)) for each in self.members]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def one_serves(self) -> None:
        """Wait until at least one server serves. Raises EngineError if all were given up."""
        async with _patience("a server"):
            await self.bell.until(lambda: any(each.serves for each in self.members) or self._is_hopeless())
        if self._is_hopeless():
            raise self.members[0].complaint()

    async def all_take_commands(self) -> None:
        """Wait until no server is starting. Raises EngineError if one was given up."""
        async with _patience("all servers"):
            await self.bell.until(lambda: all(each.takes_commands or each.state == "given up" for each in self.members))
        for each in self.members:
            if not each.takes_commands:
                raise each.complaint()

    async def one_awaits_weights(self) -> None:
        await self.bell.until(lambda: any(each.state == "without weights" for each in self.members))

    def restart(self, problem: str) -> bool:
        """Restart all servers that lzero owns; return whether there are any."""
        own = [each for each in self.members if each.own is not None]
        for each in own:
            each.lose(problem)
        return bool(own)

    def _is_hopeless(self) -> bool:
        return all(each.state == "given up" for each in self.members)


def joined(servers: Sequence[VLLMServer]) -> Fleet:
    """Return a fleet of servers that do not report computed tokens. Only the deadlines of requests notice one that hangs."""
    fleet = Fleet(hang_s=math.inf)
    for server in servers:
        fleet.add(server)
    return fleet


async def _watched(supervisor: Supervisor, prepare: Prepare) -> None:
    try:
        await supervisor.watch(prepare)
    except Exception as error:
        logger.exception("%s cannot be watched any more", supervisor.server.name)
        supervisor.give_up(f"cannot be watched: {error!r:.200}")


@asynccontextmanager
async def _patience(awaited: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except TimeoutError:
        raise EngineError(f"waited {PATIENCE_S:g} s for {awaited} to start and to get weights") from None
