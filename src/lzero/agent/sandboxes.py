"""Open the sandboxes of a run as [repl] says, or on pool servers that lzero starts on a cluster for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from lzero.config import Config, ReplConfig
from lzero.launch import open_launcher
from lzero.launch.pools import PoolServers
from lzero.repl.keys import LOCAL


@asynccontextmanager
async def sandboxes(config: Config) -> AsyncIterator[ReplConfig]:
    """Yield the section [repl] from which the pool is opened; end the pool servers that were started for it after the block.

    With launch.ray, these get the keys of [repl], unless it names other servers. Raises LaunchError if none can be started.
    """
    if not config.launch.ray or config.repl.is_elsewhere:
        yield config.repl
        return
    from lzero.repl.remote.settings import new_token, read_token

    token = read_token(config.repl.token_file, option="repl.token_file") or new_token()
    arguments = server_arguments(config.repl)
    async with (
        open_launcher(config.launch) as launcher,
        PoolServers(launcher, token=token, arguments=arguments) as servers,
    ):
        yield ReplConfig(addresses=str(servers.addresses), token_file=str(servers.token_file))


def server_arguments(config: ReplConfig) -> list[str]:
    """Return the arguments of `lzero pool serve` for REPLs as in [repl]."""
    return [
        f"repl.{key}={msgspec.json.encode(getattr(config, key)).decode()}" for key in config.changed() if key in LOCAL
    ]
