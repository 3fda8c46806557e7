"""vLLM servers that a launcher starts: they listen at an address, and are found again where they are restarted.

`support/vllm_child.py` plays vLLM. The launcher of this machine stands for a cluster's: both do the same for a program.
"""

import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from vllm_servers import group_of

from lzero.config import VLLMEngineConfig, load_config
from lzero.engine.vllm import kind, placed
from lzero.errors import ConfigError

CHILD = Path(__file__).parents[1] / "support" / "vllm_child.py"
SETTINGS = ("engine.kind=vllm", f"engine.program={CHILD}", "engine.replicas=2", "model.device=cpu")


@pytest.mark.integration
async def test_a_placed_server_that_ends_is_found_at_its_new_address() -> None:
    config = load_config(None, [*SETTINGS])
    assert isinstance(config.engine, VLLMEngineConfig)
    async with AsyncExitStack() as stack:
        first, second = (await placed.place(config, config.engine, stack)).members
        before = {first.server.url, second.server.url}
        assert len(before) == 2
        assert all(url.startswith("http://127.0.0.1:") for url in before)
        os.killpg(group_of(second.own), signal.SIGKILL)
        assert second.own is not None
        await second.own.process.ended()
        assert not await second.server.is_ready()
        await second.own.restart()
        assert await second.server.is_ready()
        assert second.server.url not in before
        assert await first.server.is_ready()


async def test_servers_on_a_cluster_need_a_way_for_new_weights() -> None:
    config = load_config(None, [*SETTINGS, "launch.ray=127.0.0.1:9"])
    with pytest.raises(ConfigError, match=r"set engine\.shared_directory to a directory that all of them see"):
        await kind.open_engine(config, kind.open_tokenizer(config))
    assert [finding.name for finding in kind.check(config)] == ["engine.shared_directory"]
    shared = config.engine.model_copy(update={"shared_directory": "/shared"})
    assert not [note for note in kind.notes(config.model_copy(update={"engine": shared})) if "shared_directory" in note]


def test_the_program_of_a_placed_server_names_no_file_of_this_machine_alone() -> None:
    config = load_config(None, [*SETTINGS])
    assert isinstance(config.engine, VLLMEngineConfig)
    program = placed.program(config, config.engine, "vLLM server 0")
    assert "--uds" not in program.command
    assert not {"HOME", "CUDA_VISIBLE_DEVICES", "VLLM_RPC_BASE_PATH"} & program.variables.keys()
    assert (program.role, program.gpus) == ("engine", 0)


def test_placed_servers_without_gpus_do_not_bind_their_threads_alike() -> None:
    config = load_config(None, [*SETTINGS, "engine.replicas=2", "model.device=cpu"])
    assert isinstance(config.engine, VLLMEngineConfig)
    program = placed.program(config, config.engine, "vLLM server 0")
    assert program.variables["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
