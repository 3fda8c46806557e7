"""A vLLM server that answers what none answers: each is a typed error, before its tokens reach a run."""

import time
from typing import Any

import pytest
from web_servers import json_response, response, serving

from lzero.config import load_config
from lzero.engine.vllm import kind
from lzero.engine.vllm.codec import Codec
from lzero.engine.vllm.server import Choice, Load, VLLMServer
from lzero.errors import EngineError
from lzero.models import build_tokenizer
from lzero.types import Sampling

pytestmark = pytest.mark.integration
TOKENIZER = build_tokenizer()
CODEC = Codec(tokenizer=TOKENIZER, stop_ids=frozenset(), vocab_size=len(TOKENIZER), max_tokens=8, owner="run")
SPAN = {"version": "run/0", "start": 0, "end": 2}


def answer(**changes: Any) -> dict[str, Any]:
    """Return a right answer of two tokens, with changes."""
    choice = {
        "token_ids": [5, 6],
        "logprobs": {"content": [{"logprob": -1.0}] * 2},
        "finish_reason": "length",
        "weight_versions": [SPAN],
    }
    return {"choices": [choice | changes]}


def of(num_tokens: int) -> dict[str, Any]:
    """Return the changes that make an answer of so many tokens."""
    return {
        "token_ids": [5] * num_tokens,
        "logprobs": {"content": [{"logprob": -1.0}] * num_tokens},
        "weight_versions": [SPAN | {"end": num_tokens}],
    }


async def sampled(body: bytes | dict[str, Any]) -> Choice:
    said = body if isinstance(body, bytes) else json_response(body)

    async def say(_: Any, writer: Any) -> None:
        writer.write(said)

    async with serving(say) as web:
        server = VLLMServer("the server", url=web.url)
        try:
            return await server.generate([1], Sampling(max_tokens=4), stop_ids=[], request_id="r", deadline_s=60.0)
        finally:
            await server.close()


async def test_a_right_answer_is_a_completion() -> None:
    completion = CODEC.completion(await sampled(answer()), "r", newest=0)
    assert (completion.token_ids, completion.versions) == ((5, 6), ((0, 2),))


@pytest.mark.parametrize(
    "changes",
    [
        *({"token_ids": ids} for ids in ([-1, 6], [5, len(TOKENIZER)], [5, 1 << 70])),
        of(0),
        of(9),
        *(
            {"weight_versions": [SPAN | {"version": name}]}
            for name in ("run/", "run/x", "run/-1", "run/" + "9" * 5_000)
        ),
        *({"weight_versions": [SPAN | places]} for places in ({"end": 1}, {"start": 1}, {"start": 5, "end": -3})),
        {"weight_versions": [SPAN, {"version": "run/1", "start": 1, "end": 2}]},
        {"weight_versions": [SPAN | {"version": "run/1"}]},
        {"logprobs": None},
        *(
            {"logprobs": {"content": [{"logprob": -1.0}, {"logprob": value}]}}
            for value in (-1e300, -1001.0, 0.5, 1e300)
        ),
    ],
    ids=lambda changes: str(changes)[:60],
)
async def test_tokens_that_no_model_samples_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match=r"^request r: .{20,400}$"):
        CODEC.completion(await sampled(answer(**changes)), "r", newest=0)


@pytest.mark.parametrize(
    "said",
    [
        response(b"[" * 200_000, content_type="application/json"),
        response(b'{"choices": [{"token_ids": [5], "logprobs": {"content": [{"logprob": NaN}]}}]}'),
        response(b'{"choices": [{"token_ids": [5], "logprobs": {"content": [{"logprob": -1e999}]}}]}'),
        json_response({"choices": []}),
        json_response([]),
    ],
    ids=lambda said: said[-40:].decode(),
)
async def test_an_answer_of_another_shape_is_an_engine_error(said: bytes) -> None:
    with pytest.raises(EngineError, match=r"^the server answered .{20,400}$"):
        await sampled(said)


async def load(said: bytes) -> Load:
    async def say(_: Any, writer: Any) -> None:
        writer.write(response(said))

    async with serving(say) as web:
        server = VLLMServer("the server", url=web.url)
        try:
            return await server.load()
        finally:
            await server.close()


async def test_figures_of_a_load_are_read_in_time_linear_in_their_length() -> None:
    start = time.thread_time()
    assert (await load(b"vllm:x{\n" * 100_000 + b"vllm:generation_tokens_total 3\n")).tokens == 3
    assert time.thread_time() - start < 5.0  # minutes in quadratic time


@pytest.mark.parametrize("value", ["x", "nan", "inf"])
async def test_figures_that_no_load_has_are_an_engine_error(value: str) -> None:
    with pytest.raises(EngineError, match="answered /metrics unlike vLLM"):
        await load(f"vllm:num_requests_running {value}\n".encode())


@pytest.mark.parametrize(
    "info",
    [
        {"vllm_config": [1]},
        {"vllm_config": {"model_config": None}},
        {"vllm_config": {"model_config": [1], "weight_transfer_config": "x"}},
        {"vllm_config": {"model_config": {"max_model_len": "9", "dtype": "x" * 100_000}}},
        {"vllm_config": {"model_config": {"max_model_len": None}}},
    ],
    ids=lambda info: str(info)[:60],
)
async def test_settings_of_another_shape_are_refused(info: dict[str, Any]) -> None:
    async def say(request: Any, writer: Any) -> None:
        writer.write(json_response(info if request.target.startswith("/server_info") else {"version": "1"}))

    async with serving(say) as web:
        server = VLLMServer("the server", url=web.url)
        try:
            with pytest.raises(EngineError, match=r"^the server .{20,1500}$"):
                kind.check_server(server.name, await server.settings(), load_config(None, ["engine.kind=vllm"]))
        finally:
            await server.close()
