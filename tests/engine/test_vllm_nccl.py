"""vLLM's NCCL backend, as far as a server without a GPU goes: it accepts the settings, joins the trainer's group, and then fails."""

import asyncio
from collections.abc import Iterator

import pytest
from vllm_servers import PROGRAM, Running, running

from lzero.errors import EngineError
from lzero.models import load_tokenizer, resolve
from lzero.train.transfer.nccl import described, group_infos

pytestmark = [pytest.mark.servers, pytest.mark.skipif(not PROGRAM.exists(), reason="make vllm installs vLLM")]
NANO = resolve("nano")
TOKENIZER = load_tokenizer(NANO)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(
        NANO, max_tokens=128, settings=['engine.arguments=["--enforce-eager"]', "engine.transfer=nccl"]
    ) as server:
        yield server


async def test_a_server_is_asked_to_join_at_the_trainers_address_and_a_failure_is_an_error(server: Running) -> None:
    engine = await server.engine(TOKENIZER)
    called = asyncio.Event()
    listener = await asyncio.start_server(lambda reader, writer: called.set(), "127.0.0.1")
    infos = group_infos(await engine.num_workers(), address="127.0.0.1", port=listener.sockets[0].getsockname()[1])
    assert [info["world_size"] for info in infos] == [2]
    joining = asyncio.create_task(engine.prepare_updates(infos))
    done, _ = await asyncio.wait(
        {joining, asyncio.create_task(called.wait())}, timeout=60.0, return_when="FIRST_COMPLETED"
    )
    assert done
    joining.cancel()
    listener.close()
    await engine.close()


async def test_an_update_without_a_group_is_an_error_and_a_server_may_leave_before_and_after_it(
    server: Running,
) -> None:
    engine = await server.engine(TOKENIZER)
    await engine.leave_group()
    with pytest.raises(EngineError, match="/update_weights"):
        await engine.update(described([]), version=1)
    await engine.leave_group()
    await engine.close()
