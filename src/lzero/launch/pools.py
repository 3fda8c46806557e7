"""Keep a pool server on every node for sandboxes, while nodes come and go.

    nodes of the launcher ──▶ `lzero pool serve` on each ──▶ address file ──▶ the run's RemotePool

A server that ends is started again. A lost node is left out, and a new one is used when it appears.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lzero.closing import Service, closed_on_error
from lzero.errors import LaunchError, StoreError
from lzero.launch.addresses import Addresses, write_addresses
from lzero.launch.local import new_directory, remove_left
from lzero.launch.protocol import HOST, PORT, PYTHON, Launcher, Node, Program, Running

logger = logging.getLogger(__name__)
LOOK_S = 2.0
"""Seconds between two looks at the nodes."""
SERVE_S = 120.0
"""Seconds in which a pool server must serve."""
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
POOLS = "pools"
"""Role in the name of the directory with the token and the addresses."""
OWN_ADDRESS = "address.json"
"""File in a server's directory, where it enters its address."""
_ASK_S = 0.25


class PoolServers(Service):
    """The pool servers of a run. `addresses` is the file that names those that serve; `token_file` holds their token."""

    def __init__(
        self, launcher: Launcher, *, token: str, arguments: Sequence[str] = (), addresses: Path | None = None
    ) -> None:
        """`launcher` is started. `arguments`: further ones of `lzero pool serve`, such as repl.memory_mb=4096. `addresses`: the file to
        write; None: a new one.
        """
        self._launcher = launcher
        self._token = token
        self._arguments = tuple(arguments)
        self._directory = new_directory(POOLS)
        self.addresses = addresses or self._directory.path / "addresses.json"
        self.token_file = self._directory.path / "token"
        self._urls: dict[str, str] = {}
        """Node → the address of its server, which serves."""
        self._problems: dict[str, str] = {}
        """Node → why its last server did not serve, or ended."""
        self._written: tuple[str, ...] = ()
        """The addresses in the file."""
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._following: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Start a server on each node; return when one serves. Raises LaunchError if there is no node, or no server serves."""
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(self._token, "utf-8")
        write_addresses(self.addresses, Addresses())
        async with closed_on_error(self.close):
            await asyncio.to_thread(remove_left, POOLS)
            await self._look()
            if not self._keeping:
                raise LaunchError(
                    "no node may run sandboxes: start nodes with the resource lzero_pool, as with "
                    "`ray start --address=HOST:PORT --resources='{\"lzero_pool\": 1}'`"
                )
            while not self._urls:
                if set(self._problems) == set(self._keeping):
                    raise LaunchError("no pool server serves: " + "; ".join(self._problems.values()))
                self._news.clear()
                await self._news.wait()
                for task in self._keeping.values():
                    if task.done():
                        task.result()
            self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop keeping the servers; the launcher ends them. Safe to call twice."""
        tasks = [*self._keeping.values(), *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._urls.clear()
        try:
            if self._directory.path.exists():
                write_addresses(self.addresses, Addresses())
        finally:
            self._directory.remove()

    async def _follow(self) -> None:
        """Look for new nodes and lost ones, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except LaunchError as error:
                logger.warning("%s. The pool servers stay as they are", error)
            self._write()

    async def _look(self) -> None:
        nodes = {node.id: node for node in await self._launcher.nodes("pool")}
        for broken in [node for node, task in self._keeping.items() if task.done()]:
            error = self._keeping.pop(broken).exception()
            logger.error("the server of node %s is kept anew: a bug ended its keeping", broken, exc_info=error)
            self._note(broken, "")
        for lost in self._keeping.keys() - nodes.keys():
            self._keeping.pop(lost).cancel()
            self._note(lost, "")
        for new in nodes.keys() - self._keeping.keys():
            self._keeping[new] = asyncio.create_task(self._keep(nodes[new]))
            self._keeping[new].add_done_callback(lambda _: self._news.set())

    async def _keep(self, node: Node) -> None:
        """Have a server on a node, until cancelled."""
        delay_s = FIRST_RETRY_S
        while True:
            try:
                running, url = await self._serve(node)
            except LaunchError as error:
                problem = str(error)
            else:
                self._note(node.id, url)
                delay_s = FIRST_RETRY_S
                cause = await running.ended()
                tail = await running.tail()
                problem = f"the pool server {url} {cause}" + (f"; its log ends: {tail}" if tail else "")
                await running.end()  # its place is free for the next one
            self._note(node.id, "", problem)
            logger.warning("%s. lzero starts it again in %g s, if its node is still there", problem, delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LAST_RETRY_S)

    async def _serve(self, node: Node) -> tuple[Running, str]:
        """Start a server on a node; return it and its address when it serves. Raises LaunchError if it does not."""
        name = f"the pool server on {node.host}"
        command = (PYTHON, "-c", "from lzero.cli import main; main()", "pool", "serve", "--insecure")
        program = Program(
            name=name,
            role="pool",
            command=(*command, "--host", HOST, "--port", PORT, "--addresses", OWN_ADDRESS, *self._arguments),
            variables={"LZERO_POOL_TOKEN": self._token},
        )
        running = await self._launcher.launch(program, node=node.id)
        try:
            async with asyncio.timeout(SERVE_S):
                while True:
                    if cause := running.end_cause():
                        await running.end()
                        raise LaunchError(f"{name} {cause}; its log ends: {await running.tail()}")
                    entered = msgspec.json.decode(await running.read(OWN_ADDRESS) or b"{}", type=Addresses).pool
                    if entered:
                        return running, entered[0]
                    await asyncio.sleep(_ASK_S)
        except (TimeoutError, msgspec.DecodeError):
            await running.kill()
            raise LaunchError(
                f"{name} did not serve within {SERVE_S:g} s; its log ends: {await running.tail()}"
            ) from None

    def _note(self, node: str, url: str, problem: str = "") -> None:
        """Note the address of a node's server, or "" if it has none; write the address file."""
        self._urls.pop(node, None)
        self._problems.pop(node, None)
        if url:
            self._urls[node] = url
        if problem:
            self._problems[node] = problem
        self._write()
        self._news.set()

    def _write(self) -> None:
        """Write the address file, if it does not name the servers that serve."""
        serving = tuple(self._urls.values())
        try:
            if serving != self._written:
                write_addresses(self.addresses, Addresses(pool=serving))
                self._written = serving
        except StoreError as error:
            logger.warning("%s. lzero tries it again in %g s", error, LOOK_S)
