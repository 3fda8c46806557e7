"""Keep the connections to several pool servers, which may vanish, restart, and be replaced by others.

named ──connect──▶ lives ──lost──▶ retried, with growing pauses ──▶ lives
                     └── no longer named: no new REPL, and no retry once it is lost
"""

import asyncio
import logging
import math
import ssl
from collections.abc import Callable, Mapping, Sequence

from lzero.errors import ReplError
from lzero.repl.remote import wire
from lzero.repl.remote.link import Link, ServerRefused
from lzero.types import Json

logger = logging.getLogger(__name__)
_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 10.0


class Server:
    """One server of the rotation: its link, or the reason why it has none."""

    def __init__(
        self, url: str, token: str, tls: ssl.SSLContext | None, on_change: Callable[[], None], session_s: float
    ) -> None:
        self.url = url
        self.link: Link | None = None
        self.named = True
        """Whether the server still belongs to the rotation."""
        self.asked = 0
        """Number of REPLs requested and not granted yet; the server may not have counted them."""
        self.facts: Mapping[str, Json] = {}
        self._why = f"{url}: not connected yet"
        self._token = token
        self._tls = tls
        self._on_change = on_change
        self._session_s = session_s
        self._told = wire.Load(repls=0, max_repls=1)

    @property
    def lives(self) -> bool:
        return self.link is not None and not self.link.lost.done()

    @property
    def why(self) -> str:
        """The reason why the server does not live."""
        return f"{self.url}: lost, {self.link.why_lost}" if self.link is not None else self._why

    @property
    def full(self) -> bool:
        return self._told.repls >= self._told.max_repls

    @property
    def load(self) -> float:
        """The share of its REPLs that are taken."""
        return (self._told.repls + self.asked) / max(1, self._told.max_repls)

    async def connect(self) -> None:
        """Connect to the server. Raises ServerRefused, ReplError."""
        try:
            link = await Link.to(self.url, token=self._token, tls=self._tls, on_load=self._on_load)
            if link.lifetime_s is not None and not link.lifetime_s >= self._session_s:
                await link.close()
                raise ServerRefused(
                    f"{self.url} ends a session after repl.lifetime_s = {link.lifetime_s:g}, and an episode may need it for "
                    f"{self._session_s:g} s: start that server with repl.lifetime_s={math.ceil(self._session_s)}, or lower agent.work_s "
                    "and rollout.episode_timeout_s here"
                )
        except ReplError as error:
            self._why = str(error)
            raise
        self.link = link
        self.facts = link.facts
        self._on_change()

    async def keep(self) -> None:
        """Connect again whenever the link is lost, until cancelled, or the server is named no longer."""
        delay_s, said = _FIRST_RETRY_S, ""
        while True:
            if self.link is not None:
                await asyncio.shield(self.link.lost)
                logger.warning("%s", self.link.epitaph)
                self._why = self.why
                link, self.link = self.link, None
                await link.close()
                self._on_change()
                if not self.named:
                    return
                await asyncio.sleep(delay_s)
            try:
                await self.connect()
            except ReplError as error:
                if isinstance(error, ServerRefused) and str(error) != said:
                    logger.warning("a pool server is not used: %s", error)
                    said = str(error)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _LAST_RETRY_S)
            else:
                delay_s, said = _FIRST_RETRY_S, ""
                logger.warning("the pool server %s is available", self.url)

    async def close(self) -> None:
        if self.link is not None:
            await self.link.close()

    def _on_load(self, load: wire.Load) -> None:
        self._told = load
        self._on_change()


class Rotation:
    """The servers of a pool. `news` is set when one of them, or its load, changes."""

    def __init__(self, urls: Sequence[str], *, token: str, tls: ssl.SSLContext | None, session_s: float) -> None:
        self.news = asyncio.Event()
        self._token = token
        self._tls = tls
        self._session_s = session_s
        self._servers = {url: self._new(url) for url in urls}
        self._keeping: dict[Server, asyncio.Task[None]] = {}

    @property
    def all(self) -> list[Server]:
        return [server for server in self._servers.values() if server.named]

    @property
    def living(self) -> list[Server]:
        return [server for server in self.all if server.lives]

    async def start(self) -> None:
        """Connect to every server once, and keep on trying. Raises ServerRefused if one refuses the client."""
        outcomes = await asyncio.gather(*(server.connect() for server in self.all), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, ServerRefused) or (outcome is not None and not isinstance(outcome, ReplError)):
                raise outcome
        if self.living:
            for outcome in filter(None, outcomes):
                logger.warning("a pool server is unavailable and is retried later: %s", outcome)
        for server in self.all:
            self._keep(server)

    def name(self, urls: Sequence[str]) -> None:
        """Use these servers from now on. REPLs on others live on; no further one opens there."""
        for url in urls:
            server = self._servers.get(url)
            if server is None or self._keeping[server].done():
                server = self._servers[url] = self._new(url)
                self._keep(server)
            server.named = True
        for url, server in list(self._servers.items()):
            server.named = url in urls
            if not server.named and not server.lives:
                self._keeping.pop(server).cancel()
                del self._servers[url]
        self.news.set()

    def roomiest(self) -> Server | None:
        """Return the living server with the most room; None if none lives, or all are full."""
        return min((server for server in self.living if not server.full), key=lambda server: server.load, default=None)

    def why_none(self) -> str:
        return "no pool server is available: " + ("; ".join(server.why for server in self.all) or "none is named")

    async def close(self) -> None:
        """Disconnect from every server; the servers go on."""
        for task in self._keeping.values():
            task.cancel()
        await asyncio.gather(*self._keeping.values(), return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    def _new(self, url: str) -> Server:
        return Server(url, self._token, self._tls if url.startswith("wss:") else None, self.news.set, self._session_s)

    def _keep(self, server: Server) -> None:
        self._keeping[server] = asyncio.create_task(server.keep())
