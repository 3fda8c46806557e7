"""Start vLLM servers on the nodes of a cluster (launch.ray), and again on any node that has room when one is lost."""

from contextlib import AsyncExitStack
from pathlib import Path

from lzero.config import Config, VLLMEngineConfig
from lzero.engine.vllm.program import SOCKET, command, search_path, threads_of_several, variables
from lzero.engine.vllm.server import VLLMServer
from lzero.engine.vllm.supervisor import Fleet, OwnServer
from lzero.errors import EngineError, LaunchError
from lzero.launch import HOST, PORT, Launcher, Program, Running, open_launcher


async def place(config: Config, settings: VLLMEngineConfig, stack: AsyncExitStack) -> Fleet:
    """Start engine.replicas servers; `stack` ends them. Raises LaunchError for a cluster that cannot be used, or EngineError."""
    launcher = await stack.enter_async_context(open_launcher(config.launch))
    fleet = Fleet(hang_s=settings.hang_s)
    for number in range(settings.replicas):
        name = f"vLLM server {number}"
        server = VLLMServer(name)
        stack.push_async_callback(server.close)
        process = await launched(launcher, program(config, settings, name), server)
        start = _Again(launcher, program(config, settings, name), server)
        fleet.add(server, OwnServer(server, process, start, start_s=settings.start_s))
    for each in fleet.members:
        assert each.own is not None
        await each.own.ready()
    return fleet


class _Again:
    """Starts a server once more."""

    def __init__(self, launcher: Launcher, program: Program, server: VLLMServer) -> None:
        self._parts = (launcher, program, server)

    async def __call__(self) -> Running:
        """Raises EngineError if no node has room."""
        try:
            return await launched(*self._parts)
        except LaunchError as error:
            raise EngineError(str(error)) from None


async def launched(launcher: Launcher, program: Program, server: VLLMServer) -> Running:
    """Start the program of a server, and let the server's requests go to where it runs. Raises LaunchError."""
    running = await launcher.launch(program)
    host = f"[{running.host}]" if ":" in running.host else running.host
    server.move(f"http://{host}:{running.port}")
    return running


def program(config: Config, settings: VLLMEngineConfig, name: str) -> Program:
    """Return the program of a server that listens at its node's address. Its node has vLLM, lzero and the model under the same paths."""
    from lzero.models import select_device

    words = list(command(config, Path(SOCKET)))
    place = words.index("--uds")
    words[place : place + 2] = ["--host", HOST, "--port", PORT]
    on_gpus = select_device(config.model.device).startswith("cuda")
    return Program(
        name=name,
        role="engine",
        command=tuple(words),
        variables={**threads_of_several(config, here=False), **variables(settings), "PATH": search_path(settings)},
        gpus=settings.devices_per_replica if on_gpus else 0,
    )
