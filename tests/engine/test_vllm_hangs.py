"""Progress of a vLLM server: what its supervisor takes for a hang, and what not."""

from pathlib import Path
from typing import Any

import pytest
from web_servers import response, serving

from lzero.engine.vllm.places import Bell
from lzero.engine.vllm.server import VLLMServer
from lzero.engine.vllm.supervisor import Supervisor

pytestmark = pytest.mark.integration
HANG_S = 60.0


def watching(server: VLLMServer) -> Supervisor:
    return Supervisor(server, None, bell=Bell(), hang_s=HANG_S)


async def trouble(supervisor: Supervisor) -> str:
    """Return what the supervisor finds if it saw the last progress more than `HANG_S` ago."""
    supervisor._moved_at -= 2 * HANG_S
    return await supervisor._trouble()


async def test_answers_are_progress_even_if_a_server_does_not_tell_its_load(tmp_path: Path) -> None:
    watched = watching(VLLMServer("the server", socket=tmp_path / "none"))
    async with watched.request():
        async with watched.request():
            pass
        assert not await trouble(watched)
        assert await trouble(watched) == "has computed no token for 60 s, while 1 requests run"


async def test_a_prompt_that_is_computed_in_parts_is_progress() -> None:
    usages = iter((0.1, 0.2, 0.2))

    async def say(_: Any, writer: Any) -> None:
        writer.write(response(b"vllm:generation_tokens_total 0\nvllm:kv_cache_usage_perc %g\n" % next(usages)))

    async with serving(say) as web:
        watched = watching(VLLMServer("the server", url=web.url))
        async with watched.request():
            assert [bool(await trouble(watched)) for _ in range(3)] == [False, False, True]
        await watched.server.close()


async def test_a_server_that_counts_no_tokens_does_not_hang() -> None:
    async def say(_: Any, writer: Any) -> None:
        writer.write(response(b"python_info 1.0\n"))

    async with serving(say) as web:
        watched = watching(VLLMServer("the server", url=web.url))
        async with watched.request():
            assert not await trouble(watched)
        await watched.server.close()


async def test_a_restarted_server_has_as_long_for_its_first_token_as_any(tmp_path: Path) -> None:
    watched = watching(VLLMServer("the server", socket=tmp_path / "none"))
    watched._moved_at -= 2 * HANG_S
    watched.await_weights()
    async with watched.request():
        assert not await watched._trouble()
