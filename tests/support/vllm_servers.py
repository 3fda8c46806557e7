"""A vLLM server of a test session, as lzero starts one, and engines on it. `make vllm` installs vLLM."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.closing import closed_on_error
from lzero.config import Config, VLLMEngineConfig, load_config
from lzero.engine.vllm.engine import Delivery, VLLMEngine
from lzero.engine.vllm.program import command, environment
from lzero.engine.vllm.server import VLLMServer
from lzero.engine.vllm.supervisor import Fleet, OwnServer, until_ready
from lzero.launch.local import LocalProcess

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROGRAM = Path(os.environ.get("LZERO_VLLM") or Path(__file__).parents[2] / ".servers" / "vllm" / "bin" / "vllm")
"""The vllm command; LZERO_VLLM names another one, as on a machine with GPUs."""
START_S = 540.0


def group_of(own: OwnServer | None) -> int:
    """Return the process group of a server of this machine."""
    assert own is not None
    assert isinstance(own.process, LocalProcess)
    return own.process.group


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that runs, for the settings of `config`."""

    config: Config
    socket: Path
    process: LocalProcess

    def client(self) -> VLLMServer:
        """Return a client for the running event loop."""
        return VLLMServer("the server under test", socket=self.socket)

    async def engine(self, tokenizer: "PreTrainedTokenizerFast") -> VLLMEngine:
        """Return an engine with this server as its only replica; it does not end the server."""

        async def nothing() -> None: ...

        settings, fleet = self.config.engine, Fleet()
        assert isinstance(settings, VLLMEngineConfig)
        fleet.add(self.client())
        engine = VLLMEngine(
            fleet,
            tokenizer,
            stop_ids=[tokenizer.eos_token_id],
            vocab_size=len(tokenizer),
            max_tokens=self.config.agent.max_tokens,
            delivery=Delivery(trainer_address="127.0.0.1" if settings.transfer == "nccl" else ""),
            on_close=nothing,
        )
        async with closed_on_error(engine.close):
            await engine.claim()
        return engine


@contextmanager
def running(model: Path, *, max_tokens: int, settings: Sequence[str] = ()) -> Iterator[Running]:
    """Serve a model directory while the block runs; `settings` are further ones of lzero."""
    config = load_config(
        None,
        [
            "engine.kind=vllm",
            f"engine.program={PROGRAM}",
            f"model.path={model}",
            f"agent.max_tokens={max_tokens}",
            "agent.response_tokens=64",
            "rollout.concurrency=64",
            *settings,
        ],
    )
    with tempfile.TemporaryDirectory(prefix="vllm-") as home:
        directory, socket = Path(home), Path(home, "socket")
        process = LocalProcess(
            command(config, socket), environment=environment(config, directory, number=0), directory=directory
        )
        with ThreadPoolExecutor(1) as other, contextlib.ExitStack() as stack:  # a fixture may run in an event loop
            stack.callback(lambda: other.submit(asyncio.run, process.end()).result())
            running = Running(config=config, socket=socket, process=process)
            other.submit(asyncio.run, _prepared(running)).result()
            yield running


async def _prepared(running: Running) -> None:
    server = running.client()
    await until_ready(server, running.process, start_s=START_S)
    if running.config.engine.transfer == "file":  # type: ignore[union-attr]
        await server.prepare_updates({})
    await server.close()
