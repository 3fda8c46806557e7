"""The chat engine before servers that refuse an option, fail for a while, or fail for good."""

import asyncio
import socket
from typing import Any

import pytest
from chat_engines import CODE, GOOD, HELLO, ask, fails, serving
from chat_servers import Answer, choice, ended, raw, refuses, sse, streams, text
from starlette.responses import HTMLResponse, JSONResponse, Response

from lzero.engine.chat.engine import OpenAIChat
from lzero.errors import ContentRefused, ContextOverflow, EngineError

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("chat_environment")]


# What a server does not take


@pytest.mark.parametrize(
    ("option", "message", "fields", "status"),
    [
        (
            "temperature",
            "Unsupported value: 'temperature' does not support 0.5 with this model.",
            {"param": "temperature"},
            400,
        ),
        ("top_p", "`temperature` and `top_p` cannot both be specified for this model.", {}, 400),
        ("seed", "Unrecognized request argument supplied: seed", {"param": None}, 400),
        ("stream_options", "Unexpected fields in the request: {'stream_options'}", {}, 422),
        (
            "stop",
            "Unsupported parameter: 'stop' is not supported with this model.",
            {"code": "unsupported_parameter"},
            400,
        ),
    ],
)
async def test_a_refused_option_is_left_out_from_then_on_and_said_once(
    option: str, message: str, fields: dict[str, Any], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(body: dict[str, object]) -> Response:
        return refuses(status, message, **fields)(body) if option in body else GOOD(body)

    async with serving(answer) as (server, chat):
        for reply in [*await asyncio.gather(ask(chat), ask(chat)), await ask(chat)]:
            assert reply.text == "<code>x = 1</code>"
    assert option not in server.bodies[-1]
    assert len(server.bodies) <= 5
    assert len(server.bodies[0]) - len(server.bodies[-1]) == 1
    warnings = [record.message for record in caplog.records if record.name == "lzero.engine.chat.engine"]
    assert len(warnings) == 1
    assert f"does not take {option}" in warnings[0]


async def test_the_length_goes_by_either_name_or_is_ignored() -> None:
    use_other = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    async with serving(refuses(400, use_other, param="max_tokens", code="unsupported_parameter"), GOOD) as (
        server,
        chat,
    ):
        await ask(chat)
    assert server.bodies[1]["max_completion_tokens"] == 64
    assert "max_tokens" not in server.bodies[1]
    async with serving(
        refuses(400, use_other), refuses(422, "max_completion_tokens: Extra inputs are not permitted"), GOOD
    ) as (
        server,
        chat,
    ):
        await ask(chat)
    assert not {"max_tokens", "max_completion_tokens"} & set(server.bodies[2])


async def test_refusals_as_pydantic_words_them_are_understood() -> None:
    detail = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 7}]
    async with serving(lambda _: JSONResponse({"detail": detail}, 422), GOOD) as (_, chat):
        await ask(chat)


@pytest.mark.parametrize(
    "answer",
    [
        refuses(
            400, "max_tokens is too large: 64. This model supports at most 16 completion tokens", param="max_tokens"
        ),
        refuses(400, "Unsupported value: 'messages[0].role' does not support 'system'", param="messages[0].role"),
        refuses(400, "'temperature' must be between 0 and 2"),
        refuses(403, "seed is not supported in your country"),
        refuses(402, "Insufficient credits"),
    ],
)
async def test_other_refusals_are_told_and_not_tried_again(answer: Answer) -> None:
    async with serving(answer) as (server, chat):
        with pytest.raises(EngineError, match=r"m at http://127.*/v1 refused: HTTP 40"):
            await ask(chat)
    assert len(server.bodies) == 1


# What may pass


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    async with serving(refuses(status, "busy"), refuses(status, "busy", headers={"Retry-After": "0"}), GOOD) as (
        server,
        chat,
    ):
        told: list[tuple[str, str]] = []
        assert (await ask(chat, told=told)).text == "<code>x = 1</code>"
    assert len(server.bodies) == 3
    assert ("restart", "") not in told  # the model had sent no text yet


async def test_tries_are_bounded_by_number_and_by_the_deadline() -> None:
    async with serving(refuses(503, "loading"), max_tries=3) as (server, chat):
        with pytest.raises(EngineError, match=r"HTTP 503: loading \(tried 3 times\)"):
            await ask(chat)
        assert len(server.bodies) == 3
    message = await fails(refuses(429, "slow down", headers={"Retry-After": "3600"}))
    assert "the next try, in 3.6e+03 s, would come after the deadline" in message
    assert "tried" not in await fails(refuses(429, "no money", code="insufficient_quota"))
    assert "tried" not in await fails(refuses(500, "no", headers={"x-should-retry": "false"}))


BEGUN = sse(text("<code>", "x"))


@pytest.mark.parametrize(
    "broken",
    [
        raw(*BEGUN, then="die"),
        raw(*BEGUN),  # ends without an end
        raw(*BEGUN, then="hang"),
        raw(*BEGUN, *sse([{"error": {"message": "engine died", "code": 500}}])),
        raw(*BEGUN, *sse([{"error": "worker died"}])),
        raw(*BEGUN, *sse([ended("error")])),
    ],
    ids=["dies", "ends", "stalls", "error", "error in words", "error as an end"],
)
async def test_a_reply_that_breaks_off_is_begun_anew_and_the_listener_knows(broken: Answer) -> None:
    told: list[tuple[str, str]] = []
    async with serving(broken, GOOD, stall_s=1.5) as (_, chat):
        assert (await ask(chat, told=told)).text == "<code>x = 1</code>"
    assert told[:3] == [("text", "<code>"), ("text", "x"), ("restart", "")]


async def test_what_broke_each_time_is_told() -> None:
    assert "broke off" in await fails(raw(*BEGUN, then="die"), max_tries=2)
    assert "stopped coming for 0.2 s" in await fails(raw(*BEGUN, then="hang"), max_tries=2, stall_s=0.2)
    assert "failed: engine died (tried 2" in await fails(
        raw(*sse([{"error": {"message": "engine died"}}])), max_tries=2
    )


# What does not


async def test_the_deadline_holds_for_the_whole_reply() -> None:
    assert "gave no complete reply within 0.3 s" in await fails(raw(then="hang"), deadline_s=0.3)
    assert "failures before that: m at" in await fails(refuses(500, "ill"), raw(*BEGUN, then="hang"), deadline_s=1.5)


async def test_a_cancelled_reply_closes_its_connection() -> None:
    began = asyncio.Event()
    async with serving(raw(*BEGUN, then="hang")) as (server, chat):
        task = asyncio.create_task(
            chat.reply(HELLO, CODE, request_id="1", deadline_s=60.0, on_text=lambda *_: began.set())
        )
        await asyncio.wait_for(began.wait(), 20.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 20.0)


async def test_an_error_of_the_listener_is_its_own() -> None:
    def listen(kind: str, piece: str) -> None:
        raise TimeoutError("mine")

    async with serving(GOOD) as (server, chat):
        with pytest.raises(TimeoutError, match="mine"):
            await chat.reply(HELLO, CODE, request_id="1", deadline_s=20.0, on_text=listen)
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (
            400,
            {
                "message": "This model's maximum context length is 128 tokens. However …",
                "code": "context_length_exceeded",
            },
        ),
        (400, {"message": "'max_tokens' is too large: 64. This model's maximum context length is 128 tokens and …"}),
        (400, {"message": "The input (200 tokens) is longer than the model's context length (128 tokens)."}),
        (400, {"message": "the request exceeds the available context size, try increasing it"}),
        (400, {"message": "prompt is too long: 200 tokens > 128 maximum"}),
        (400, {"message": "The input token count (200) exceeds the maximum number of tokens allowed (128)."}),
        (413, {"message": ""}),
    ],
)
async def test_a_conversation_that_is_too_long_is_an_error_of_its_own(status: int, error: dict[str, object]) -> None:
    in_stream = raw(*sse([{"error": {**error, "code": 400}}]))
    for answer in [lambda _: JSONResponse({"error": error}, status), in_stream][: 1 if status == 413 else 2]:
        async with serving(answer) as (server, chat):
            with pytest.raises(ContextOverflow, match="do not fit into the context of m at"):
                await ask(chat)
            assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "The response was filtered due to the prompt triggering …", "code": "content_filter"}),
        (400, {"message": "Invalid prompt: your prompt was flagged as …", "code": "invalid_prompt"}),
        (400, {"message": "Input data may contain inappropriate content.", "code": "data_inspection_failed"}),
        (403, {"message": 'm requires moderation. Your input was flagged for "violence"', "code": "403"}),
    ],
)
async def test_a_conversation_that_a_content_filter_refuses_is_an_error_of_its_own(
    status: int, error: dict[str, object]
) -> None:
    in_stream = raw(*sse([{"error": error}]))
    for answer in [lambda _: JSONResponse({"error": error}, status), in_stream]:
        async with serving(answer) as (server, chat):
            with pytest.raises(ContentRefused, match=r"the content filter of m at .* refuses the conversation: "):
                await ask(chat)
            assert len(server.bodies) == 1


async def test_a_reply_that_a_content_filter_cuts_off_is_kept_as_far_as_it_goes() -> None:
    async with serving(streams(*text("a"), ended("content_filter"))) as (_, chat):
        found = await ask(chat)
    assert (found.text, found.stop_reason) == ("a", "length")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (raw(b"data: {not json\n\n"), "invalid JSON"),
        (raw(b"data: \xff\n\n"), "invalid JSON"),
        (raw(b"data: " + b"[" * 100_000 + b"\n\n"), "invalid JSON"),
        (raw(b'{"choices": [', content_type="application/json"), "invalid JSON"),
        (raw(b"data: [1]\n\n"), "an invalid chat completion"),
        (raw(*sse([{"choices": "x"}])), "an invalid chat completion"),
        (raw(*sse([choice(content=["x"])])), "an invalid chat completion"),
        (lambda _: HTMLResponse("<h1>hello</h1>"), "is a web page"),
        (lambda _: HTMLResponse("<h1>no</h1>", 418), "refused: HTTP 418$"),
        (refuses(418, "\x1b[31mno\n" + "x" * 5000), r"refused: HTTP 418: \[31mno x{280,}…$"),
    ],
)
async def test_nonsense_is_told_as_what_it_is(answer: Answer, message: str) -> None:
    async with serving(answer) as (server, chat):
        with pytest.raises(EngineError, match=message):
            await ask(chat)
        assert len(server.bodies) == 1


async def test_a_server_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    chat = OpenAIChat("m", base_url=url, max_tries=2)
    for asking in (ask(chat), chat.check()):
        with pytest.raises(EngineError, match=rf"cannot reach {url}: .*refused.*is the server running"):
            await asking
    await chat.close()


async def test_a_model_that_is_not_there_is_told_with_those_that_are() -> None:
    models = JSONResponse({"data": [{"id": f"other-{n}"} for n in range(20)] + [{"id": "me"}]})
    message = await fails(refuses(404, "The model `m` does not exist."), models=models)
    assert "has no model m, or no chat (HTTP 404: The model `m` does not exist.); it has me, other-0" in message
    assert message.endswith("and 9 more")
    assert "check that the address ends in /v1" in await fails(lambda _: JSONResponse({"detail": "Not Found"}, 404))
