"""`lzero pool serve --ray`: keep a pool server on each node of a Ray cluster that is for sandboxes."""

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.cli.arguments import log_visibly
from lzero.errors import ConfigError
from lzero.serving import Serving

if TYPE_CHECKING:
    from lzero.config import ReplConfig


def serve_cluster(ray: str, config: "ReplConfig", serving: Serving, *, token_file: str, addresses: Path | None) -> None:
    """Keep the servers, with the keys of [repl], until Ctrl-C. `addresses`: the address file to write.

    Raises ConfigError for a missing file, or for an option without effect on the servers of nodes; LaunchError if no server serves.
    """
    from lzero.repl.remote.settings import VARIABLE, new_token, read_token

    usual = Serving()
    for name in ("host", "port", "certificate", "key", "insecure"):
        if getattr(serving, name) != getattr(usual, name):
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
