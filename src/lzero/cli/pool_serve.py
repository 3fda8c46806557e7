"""`lzero pool serve`: serve the sandboxes of this machine to runs on others, or keep servers on the nodes of a Ray cluster (--ray)."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lzero.cli.arguments import Arguments, log_visibly, read_config, takes
from lzero.errors import ConfigError
from lzero.launch.addresses import registered
from lzero.serving import Serving

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from lzero.config import ReplConfig
    from lzero.protocols import ReplPool
    from lzero.repl.remote.server import PoolServer

_USUAL = Serving()


@dataclass(frozen=True)
class _Options:
    arguments: Arguments = None
    host: Annotated[str, typer.Option("--host", help="Address to serve at.")] = _USUAL.host
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 picks a free one.")] = _USUAL.port
    token_file: Annotated[
        str,
        typer.Option(
            help="File with the bearer token of clients; default: LZERO_POOL_TOKEN, else a new token that is printed."
        ),
    ] = ""
    certificate: Annotated[Path | None, typer.Option(help="Certificate for TLS (PEM, including the chain).")] = None
    key: Annotated[Path | None, typer.Option(help="The certificate's private key (PEM).")] = None
    lease_s: Annotated[
        float, typer.Option(min=0.5, help="Seconds without a message after which a client loses its REPLs.")
    ] = _USUAL.lease_s
    max_repls: Annotated[int, typer.Option(min=1, help="Maximum number of REPLs over all clients.")] = _USUAL.max_repls
    addresses: Annotated[
        Path | None, typer.Option(help="Address file: enter the server's address, and remove it at the end.")
    ] = None
    ray: Annotated[
        str, typer.Option(help="Address of a Ray cluster, or auto: keep a server on each of its nodes with lzero_pool.")
    ] = ""
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines without TLS, on a trusted network.")
    ] = _USUAL.insecure


@takes(_Options)
def serve(options: _Options) -> None:
    """Serve the sandboxes of this machine to runs on other machines (repl.servers there) until Ctrl-C.

    Example: lzero pool serve --host 10.0.0.7 --certificate server.pem --key server.key repl.memory_mb=4096
    """
    from lzero.repl import open_pool
    from lzero.repl.keys import check_local
    from lzero.repl.remote.server import PoolServer
    from lzero.repl.remote.settings import VARIABLE, new_token, read_token

    config = read_config(options.arguments).repl
    check_local(config)
    serving = Serving(
        host=options.host,
        port=options.port,
        certificate=options.certificate,
        key=options.key,
        lease_s=options.lease_s,
        max_repls=options.max_repls,
        insecure=options.insecure,
    )
    if options.ray:
        serve_cluster(options.ray, config, serving, token_file=options.token_file, addresses=options.addresses)
        return
    if (options.certificate is None) != (options.key is None):
        raise ConfigError("--certificate and --key must be given together")
    given = read_token(options.token_file, option="--token-file")
    os.environ.pop(VARIABLE, None)  # nothing that is started from here needs it
    token = given or new_token()
    local = open_pool(config)
    server = PoolServer(local, serving, token=token, file_bytes=config.file_mb << 20, lifetime_s=config.lifetime_s)
    log_visibly("%(asctime)s %(message)s")
    asyncio.run(_until_signalled(local, server, "" if given else token, options.addresses))


async def _until_signalled(
    local: "AbstractAsyncContextManager[ReplPool]", server: "PoolServer", new_token: str, addresses: Path | None
) -> None:
    """Serve until SIGINT or SIGTERM, and leave nothing. A second signal ends the process at once; the sandboxes die with it anyway."""
    loop, task, signals = asyncio.get_running_loop(), asyncio.current_task(), (signal.SIGINT, signal.SIGTERM)
    ending, entered = False, AsyncExitStack()

    def end() -> None:
        nonlocal ending
        ending = True
        for number in signals:
            loop.remove_signal_handler(number)
        assert task is not None
        task.cancel()

    for number in signals:
        loop.add_signal_handler(number, end)
    try:
        await server.bind()  # before the sandbox, which takes longer to start
        async with local, server:
            if addresses is not None:
                await entered.enter_async_context(registered(addresses, "pool", server.url))
            print(welcome(server.url, new_token), flush=True)
            await server.ended()
    except asyncio.CancelledError:
        if not ending:
            raise
    finally:
        try:
            await entered.aclose()
        finally:
            await server.close()


def welcome(url: str, new_token: str) -> str:
    """Return the lines to paste on the machine that runs lzero. `new_token` is shown only this once."""
    lines = [f"serving REPLs at {url} until Ctrl-C. On the machine that runs lzero:"]
    lines += [f"  export LZERO_POOL_TOKEN={new_token}"] if new_token else []
    lines += [f"  lzero train repl.servers='[\"{url}\"]'"]
    return "\n".join(lines)


def serve_cluster(ray: str, config: "ReplConfig", serving: Serving, *, token_file: str, addresses: Path | None) -> None:
    """Keep the servers, with the keys of [repl], until Ctrl-C. `addresses`: the address file to write.

    Raises ConfigError for a missing file, or for an option without effect on the servers of nodes; LaunchError if no server serves.
    """
    from lzero.repl.remote.settings import VARIABLE, new_token, read_token

    for name in ("host", "port", "certificate", "key", "insecure"):
        if getattr(serving, name) != getattr(_USUAL, name):
            raise ConfigError(
                f"--{name} has no effect with --ray: servers listen at their nodes' addresses, without TLS"
            )
    if addresses is None:
        raise ConfigError(
            "--ray needs --addresses FILE: the servers' addresses are written there, for lzero train --addresses FILE"
        )
    given = read_token(token_file, option="--token-file")
    os.environ.pop(VARIABLE, None)
    log_visibly("%(asctime)s %(message)s")
    asyncio.run(_keep(ray, config, serving, given=given, token=given or new_token(), addresses=addresses.absolute()))


async def _keep(ray: str, config: "ReplConfig", serving: Serving, *, given: str, token: str, addresses: Path) -> None:
    from lzero.agent.sandboxes import server_arguments
    from lzero.config import LaunchConfig
    from lzero.launch import open_launcher
    from lzero.launch.pools import PoolServers

    arguments = (f"--lease-s={serving.lease_s:g}", f"--max-repls={serving.max_repls}", *server_arguments(config))
    async with (
        open_launcher(LaunchConfig(ray=ray)) as launcher,
        PoolServers(launcher, token=token, arguments=arguments, addresses=addresses),
    ):
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        print(f"keeping pool servers on the Ray cluster at {ray} until Ctrl-C. On the machine that runs lzero:")
        if not given:
            print(f"  export LZERO_POOL_TOKEN={token}")
        print(f"  lzero train --addresses {addresses}", flush=True)
        await stop.wait()
