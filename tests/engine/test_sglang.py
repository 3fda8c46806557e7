"""The engine "sglang", against a server that answers as SGLang's source says. SGLang itself has not been run."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from builders import make_nano
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lzero.config import load_config
from lzero.engine.sglang import kind
from lzero.engine.vllm.engine import VLLMEngine
from lzero.errors import EngineError
from lzero.train.transfer import HeldWeights, open_transfer
from lzero.train.transfer.file import FileTransfer
from lzero.types import Sampling

pytestmark = pytest.mark.integration


class Answers:
    """What SGLang answers: it continues every prompt with the ids 5 and 6, and knows the name of its weights."""

    def __init__(self) -> None:
        self.name = "default"
        self.called: list[str] = []
        self.connections: set[object] = set()
        """Addresses from which completions were asked for."""
        self.bodies: dict[str, Any] = {}
        self.loaded: list[str] = []
        self.success = True
        self.finish = "length"
        self.logprob: float | None = -0.5
        self.context_length: object = None

    async def answer(self, request: Request) -> Response:
        route = request.url.path
        self.called.append(route)
        body = self.bodies[route] = await request.json() if request.method == "POST" else {}
        if route == "/server_info":
            return JSONResponse({"dtype": "float32", "context_length": self.context_length, "version": "0.5.23"})
        if route == "/model_info":
            return JSONResponse({"weight_version": self.name})
        if route == "/generate":
            self.connections.add(request.client)
            return JSONResponse({"text": "", "output_ids": [5, 6], "meta_info": self.meta(body)})
        if route == "/update_weights_from_disk":
            self.loaded = sorted(file.name for file in Path(body["model_path"]).iterdir())
        self.name = body.get("weight_version") or body.get("new_version") or self.name
        return JSONResponse({"success": self.success, "message": "no such file"})

    def meta(self, body: dict[str, Any]) -> dict[str, Any]:
        scores = [[None if place == 0 else -0.25, token, None] for place, token in enumerate(body["input_ids"])]
        return {
            "finish_reason": {"type": self.finish},
            "output_token_logprobs": [[self.logprob, 5, None], [-1.5, 6, None]],
            "input_token_logprobs": scores if body["logprob_start_len"] == 0 else [],
            "weight_versions": [{"version": self.name, "start": 0, "end": 2}],
        }


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(answers: Answers) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/{route:path}", answers.answer, methods=["GET", "POST"])])
    config = uvicorn.Config(app, lifespan="off", log_config=None, log_level="critical", access_log=False)
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await serving


@asynccontextmanager
async def engine_on(answers: Answers, *changes: str) -> AsyncIterator[VLLMEngine]:
    async with served(answers) as url:
        config = load_config(None, ["engine.kind=sglang", f'engine.urls=["{url}"]', *changes])
        opened = await kind.open_engine(config, kind.open_tokenizer(config))
        assert isinstance(opened.engine, VLLMEngine)
        yield opened.engine
        await opened.engine.close()


async def test_a_completion_has_the_ids_the_log_probabilities_and_the_version_of_each_token() -> None:
    answers = Answers()
    async with engine_on(answers) as engine:
        sampling = Sampling(max_tokens=2, seed=7, stop=("</code>",))
        found = await engine.sample([3, 4], sampling, request_id="a", affinity="a", deadline_s=60.0)
        assert await engine.score([3, 4, 5]) == (0.0, -0.25, -0.25)
    assert (found.token_ids, found.logprobs, found.versions) == ((5, 6), (-0.5, -1.5), ((0, 2),))
    assert found.stop_reason == "length"
    assert answers.name == "default"  # the server is free again


async def test_new_weights_are_read_from_a_directory_while_nothing_is_sampled() -> None:
    answers = Answers()
    async with engine_on(answers) as engine:
        transfer = open_transfer(engine, make_nano())
        assert isinstance(transfer, FileTransfer)
        answers.called.clear()
        await engine.pause()
        await transfer.send(HeldWeights([]), version=3)
        await engine.resume()
        found = await engine.sample([3], Sampling(max_tokens=2), request_id="a", affinity="a", deadline_s=60.0)
    assert answers.called[:4] == [
        "/pause_generation",
        "/flush_cache",
        "/update_weights_from_disk",
        "/continue_generation",
    ]
    assert answers.bodies["/pause_generation"] == {"mode": "retract"}
    assert answers.loaded == ["weights.safetensors"]
    assert found.versions == ((3, 2),)


async def test_a_transfer_that_sglang_reports_as_failed_is_an_error(tmp_path: Path) -> None:
    answers = Answers()
    async with engine_on(answers) as engine:
        answers.success = False
        with pytest.raises(EngineError, match="failed /update_weights_from_disk: no such file"):
            await engine.update({"path": str(tmp_path / "weights.safetensors")}, version=1)


async def test_requests_one_after_another_share_a_connection() -> None:
    answers = Answers()
    async with engine_on(answers) as engine:
        for name in "abc":
            await engine.sample([3], Sampling(max_tokens=2), request_id=name, affinity=name, deadline_s=60.0)
    assert len(answers.connections) == 1


async def test_an_aborted_completion_is_an_error() -> None:
    answers = Answers()
    answers.finish = "abort"
    async with engine_on(answers) as engine:
        with pytest.raises(EngineError, match="ended the completion with 'abort'"):
            await engine.sample([3], Sampling(max_tokens=2), request_id="a", affinity="a", deadline_s=60.0)


async def test_a_token_without_a_log_probability_is_an_error() -> None:
    answers = Answers()
    answers.logprob = None
    async with engine_on(answers) as engine:
        with pytest.raises(EngineError, match="gave no log-probability for 1 of 2 tokens"):
            await engine.sample([3], Sampling(max_tokens=2), request_id="a", affinity="a", deadline_s=60.0)


async def test_a_server_whose_context_is_no_number_is_refused() -> None:
    answers = Answers()
    answers.context_length = "9"
    with pytest.raises(EngineError, match="its context_length is '9', less than"):
        async with engine_on(answers):
            pass


async def test_a_server_of_another_type_of_weights_is_refused() -> None:
    with pytest.raises(EngineError, match="its dtype is 'float32', not 'bfloat16'"):
        async with engine_on(Answers(), "model.dtype=bfloat16"):
            pass
