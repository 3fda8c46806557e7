"""Bound the cost of strangers at a pool server. A stranger is a connection that has not shown the token.

All strangers together hold `STRANGERS` connections. One more ends the oldest connection of the network with the most of them, so a client
that opens thousands ends only its own. A stranger has `STRANGER_S` seconds for TLS, its request and the answer. `lzero.repl.remote.server`
bounds the bytes.
"""

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

logger = logging.getLogger(__name__)
STRANGERS = 128
"""Number of connections at once."""
STRANGER_S = 10.0
"""Seconds from the connection to the token, or to the end of the answer."""
_BACKLOG = 1024
"""Connections that wait in the kernel to be accepted."""
_RETRY_S = 0.1
"""Seconds until the next try if the machine has no descriptor or memory for a connection."""
_LINES_EVERY_S = 1.0
_GOODBYE_S = 5.0
"""Seconds that a client has to end TLS."""
_IPV6_SITE = 64
"""Bits of an IPv6 address that name a network: one stranger may have all addresses in it."""


class Refusals:
    """The log of connections that were refused: at most one line a second, which counts the others."""

    def __init__(self) -> None:
        self._unsaid = 0
        self._quiet_until = -1.0

    def note(self, who: object, why: str) -> None:
        if time.monotonic() < self._quiet_until:
            self._unsaid += 1
            return
        more = f" ({self._unsaid:,} more were refused since the last line)" if self._unsaid else ""
        logger.warning("%s is refused: %s%s", who, why, more)
        self._unsaid, self._quiet_until = 0, time.monotonic() + _LINES_EVERY_S


class Guest:
    """One connection, which is a stranger until it is admitted."""

    def __init__(self, connection: socket.socket, address: tuple[str, int]) -> None:
        self.connection = connection
        self.name = f"{address[0]}:{address[1]}"
        self.network = _network(address[0])
        self.admitted = False
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it is admitted or gone."""

    def admit(self) -> None:
        """Note that it has shown the token."""
        self.admitted = True
        self.leave()

    def leave(self) -> None:
        """Note that it is admitted or gone. Safe to call twice."""
        if not self.settled.done():
            self.settled.set_result(None)


class Door:
    """Accepts the connections of `listener`, and gives each a protocol of `make_protocol`."""

    def __init__(
        self,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        make_protocol: Callable[[Guest], asyncio.Protocol],
        refusals: Refusals,
    ) -> None:
        self._listener = listener
        self._tls = tls
        self._make_protocol = make_protocol
        self._refusals = refusals
        self._strangers: dict[Guest, asyncio.Task[None]] = {}
        """Oldest first."""
        self._accepting: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to accept connections."""
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)
        self._accepting = asyncio.create_task(self._accept())

    async def ended(self) -> None:
        """Return when no more connections are accepted. If an error has ended that, `close` raises it."""
        assert self._accepting is not None
        await asyncio.wait({self._accepting})

    async def close(self) -> None:
        """Accept no more, and end every stranger's connection."""
        failed: BaseException | None = None
        if self._accepting is not None:
            self._accepting.cancel()
            (failed,) = await asyncio.gather(self._accepting, return_exceptions=True)
        tasks = [*self._strangers.values()]  # all have started by now: a task that has not would leave its socket open
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()
        if isinstance(failed, Exception):
            raise failed

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:
                self._end_one(f"the machine takes no more connections: {error.strerror or error}")
                await asyncio.sleep(_RETRY_S)
                continue
            if len(self._strangers) >= STRANGERS:
                self._end_one(f"{STRANGERS} connections show no token, and its network has the most of them")
            guest = Guest(connection, address)
            self._strangers[guest] = asyncio.create_task(self._entertain(guest))
            await asyncio.sleep(0)  # let the task begin, and do not delay others with a queue of connections

    def _end_one(self, why: str) -> None:
        """End the oldest connection of the network that holds most."""
        if self._strangers:
            crowded = Counter(guest.network for guest in self._strangers).most_common(1)[0][0]
            oldest = next(guest for guest in self._strangers if guest.network == crowded)
            self._refusals.note(oldest.name, why)
            self._strangers.pop(oldest).cancel()

    async def _entertain(self, guest: Guest) -> None:
        """Keep a connection until it is admitted or ends."""
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(STRANGER_S):
                transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: self._make_protocol(guest),
                    guest.connection,
                    ssl=self._tls,
                    ssl_shutdown_timeout=_GOODBYE_S if self._tls else None,
                )
                await guest.settled
        except TimeoutError:
            self._refusals.note(guest.name, f"it showed no token within {STRANGER_S:g} s")
        except OSError as error:
            self._refusals.note(guest.name, f"it did not connect: {error}")
        finally:
            self._strangers.pop(guest, None)
            if transport is not None and not guest.admitted:
                transport.abort()  # which does nothing for a TLS connection that is being closed
                with suppress(OSError):
                    guest.connection.shutdown(socket.SHUT_RDWR)


def _network(address: str) -> object:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.version == 4:
        return parsed
    return parsed.ipv4_mapped or ipaddress.IPv6Network((int(parsed), _IPV6_SITE), strict=False)
