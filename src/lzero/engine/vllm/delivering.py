"""Choose the way of new weights to the servers: through a directory that they share with the trainer, or from the trainer's address."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

from lzero.config import Config, VLLMEngineConfig
from lzero.engine.vllm.engine import Delivery
from lzero.engine.vllm.server import VLLMServer
from lzero.engine.vllm.supervisor import Fleet
from lzero.errors import EngineError


def sharing_problem(config: Config, settings: VLLMEngineConfig) -> str:
    """Return why new weights would not reach servers on a cluster; "" if they would."""
    if not config.launch.ray or settings.urls or settings.transfer == "nccl" or settings.shared_directory:
        return ""
    return (
        f'launch.ray = "{config.launch.ray}" starts servers on other machines: set engine.shared_directory to a directory that all of '
        'them see, or engine.transfer to "nccl"'
    )


def delivery(settings: VLLMEngineConfig, fleet: Fleet) -> Delivery:
    """Return how new weights reach the servers. Raises EngineError as `_trainer_address` does."""
    return Delivery(
        shared_directory=Path(settings.shared_directory) if settings.shared_directory else None,
        trainer_address=_trainer_address(settings, fleet.members[0].server),
        step_s=settings.sync_s,
        takes_adapters=settings.transfer == "adapter",
    )


def _trainer_address(settings: VLLMEngineConfig, server: VLLMServer) -> str:
    """Return the address at which the servers reach the trainer; "" if they read a file. Raises EngineError."""
    if settings.transfer != "nccl":
        return ""
    if not server.url:
        return "127.0.0.1"
    first = urlsplit(server.url)
    try:
        family, kind, _, _, place = socket.getaddrinfo(first.hostname, first.port or 80, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as route:
            route.connect(place)  # sends nothing
            return str(route.getsockname()[0])
    except OSError as error:
        raise EngineError(f"no network leads from this machine to {first.hostname}: {error}") from None
