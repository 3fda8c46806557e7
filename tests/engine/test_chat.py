"""The chat engine before real servers on loopback: every dialect, every refusal, every way in which a reply may not come."""

import asyncio
import gc
import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from chat_servers import Answer, ChatServer, choice, ended, raw, refuses, sse, streams, text, usage
from starlette.responses import HTMLResponse, JSONResponse, Response

from lzero.engine.chat import engine as chat_module
from lzero.engine.chat import server as chat_server
from lzero.engine.chat.engine import OpenAIChat
from lzero.engine.chat.kind import open_chat
from lzero.errors import ConfigError, ContextOverflow, EngineError
from lzero.protocols import ChatEngine
from lzero.tools.keys import Secret
from lzero.tools.retry import Backoff
from lzero.types import Completion, Message, Sampling, Usage

pytestmark = pytest.mark.integration
KEY = "sk-a-key-for-tests-only"
HELLO = (Message(role="system", content="Be brief."), Message(role="user", content="Who founded Liri?"))
CODE = Sampling(stop=("</code>",), seed=7, temperature=0.5, max_tokens=64)
GOOD = streams(*text("<code>", "x = 1", "</co", "de>"), ended(), usage(10, 4))
SHORTEST = ended("stop")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # loading the authorities takes longer than most tests
    monkeypatch.setattr(chat_module, "WAITS", Backoff(first_s=0.001))


@asynccontextmanager
async def serving(
    *answers: Answer, models: Response | None = None, **options: object
) -> AsyncIterator[tuple[ChatServer, OpenAIChat]]:
    async with ChatServer(*answers, models=models) as server:
        chat = OpenAIChat("m", base_url=server.url, **options)  # type: ignore[arg-type] # mypy takes them all for one type
        try:
            yield server, chat
        finally:
            await chat.close()


async def ask(
    chat: ChatEngine, sampling: Sampling = CODE, *, told: list[tuple[str, str]] | None = None, deadline_s: float = 20.0
) -> Completion:
    """Return a reply, after a check that its streamed pieces add up to it."""
    told = [] if told is None else told
    reply = await chat.reply(
        HELLO, sampling, request_id="é/0", deadline_s=deadline_s, on_text=lambda *piece: told.append(piece)
    )
    last = max((index + 1 for index, (kind, _) in enumerate(told) if kind == "restart"), default=0)
    for kind, whole in (("text", reply.text), ("reasoning", reply.reasoning)):
        assert "".join(piece for name, piece in told[last:] if name == kind) == whole
    return reply


async def fails(*answers: Answer, deadline_s: float = 20.0, models: Response | None = None, **options: object) -> str:
    async with serving(*answers, models=models, **options) as (_, chat):
        with pytest.raises(EngineError) as raised:
            await ask(chat, deadline_s=deadline_s)
    assert raised.value.__cause__ is None  # the SDK's errors hold the request, and the request the key
    return str(raised.value)


# Replies


async def test_a_reply_is_streamed_and_metered() -> None:
    told: list[tuple[str, str]] = []
    async with serving(GOOD, key=Secret(KEY)) as (server, chat):
        reply = await ask(chat, told=told)
    assert (reply.text, reply.stop_reason, reply.reasoning) == ("<code>x = 1</code>", "stop", "")
    assert reply.usage == Usage(prompt_tokens=10, completion_tokens=4)
    assert (reply.token_ids, reply.logprobs, reply.versions) == ((), (), ())
    assert told == [("text", "<code>"), ("text", "x = 1"), ("text", "</co"), ("text", "de>")]
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": message.role, "content": message.content} for message in HELLO],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 64,
            "temperature": 0.5,
            "top_p": 1.0,
            "seed": 7,
            "stop": ["</code>"],
        }
    ]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["x-client-request-id"] == "%C3%A9/0"


@pytest.mark.parametrize(
    ("end", "stop_reason"), [("stop", "eos"), ("length", "length"), ("tool_calls", "eos"), ("eos", "eos")]
)
async def test_a_reply_without_a_stop_string_ends_as_the_server_says(end: str, stop_reason: str) -> None:
    async with serving(streams(*text("a ", "b"), ended(end))) as (_, chat):
        reply = await ask(chat)
    assert (reply.text, reply.stop_reason, reply.usage) == ("a b", stop_reason, None)


@pytest.mark.parametrize(
    ("said", "end", "stop", "whole"),
    [
        ("<code>1", {}, ("</code>",), "<code>1</code>"),  # OpenAI: only the open tag tells
        ("<code>1", {}, ("</code>", "</answer>"), "<code>1</code>"),
        ("<code><answer>1", {}, ("</code>", "</answer>"), None),  # two could be meant
        ("<think>a <code></think>b", {}, ("</code>",), None),  # that tag is a thought
        ("1", {}, ("</code>",), None),
        ("1\n", {}, ("END",), None),
        ("1", {"stop_reason": "END"}, ("</code>", "END"), "1END"),  # vLLM
        ("<code>1", {"stop_reason": None}, ("</code>",), None),  # vLLM: the model ended its turn
        ("<code>1", {"stop_reason": 151645}, ("</code>",), None),
        ("1", {"matched_stop": "END"}, ("END",), "1END"),  # SGLang
        ("<code>1", {"matched_stop": 151645}, ("</code>",), None),
        ("1", {"stop_reason": "elsewhere"}, ("END",), None),
        ("", {"stop_reason": "END"}, ("END",), "END"),
    ],
)
async def test_the_stop_string_that_a_server_took_off_is_put_back(
    said: str, end: dict[str, object], stop: tuple[str, ...], whole: str | None
) -> None:
    async with serving(streams(*text(said), ended(**end))) as (_, chat):
        reply = await ask(chat, Sampling(stop=stop))
    assert (reply.text, reply.stop_reason) == ((said, "eos") if whole is None else (whole, "stop"))


async def test_a_stop_string_that_ended_the_thought_is_not_put_into_the_text() -> None:
    answer = streams(choice(reasoning_content="hm"), ended(stop_reason="</code>"))
    async with serving(answer) as (_, chat):
        reply = await ask(chat)
    assert (reply.text, reply.reasoning, reply.stop_reason) == ("", "hm", "eos")


async def test_a_server_that_does_not_stop_is_left() -> None:
    pieces = sse(text("a</co", "de> and on", " and on"))
    async with serving(raw(*pieces, then="hang")) as (server, chat):
        reply = await ask(chat)
        await asyncio.wait_for(server.left.wait(), 20.0)
    assert (reply.text, reply.stop_reason, reply.usage) == ("a</code>", "stop", None)


async def test_after_a_stop_string_the_usage_is_waited_for_and_nothing_else() -> None:
    async with serving(
        raw(*sse(text("a</code>")), then="die"), raw(*sse([choice(content="</code>"), "invalid JSON"]))
    ) as (
        _,
        chat,
    ):
        assert (await ask(chat)).text == "a</code>"
        assert (await ask(chat)).text == "</code>"


async def test_a_reply_that_has_ended_is_whole_whatever_becomes_of_the_connection() -> None:
    whole = sse([*text("yes"), ended()])
    for broken in (raw(*whole, then="die"), raw(*whole, then="hang"), raw(*whole, b"data: no JSON\n\n")):
        async with serving(broken, GOOD) as (server, chat):
            async with asyncio.timeout(20):
                reply = await ask(chat)
        assert (reply.text, reply.stop_reason, len(server.bodies), reply.usage) == ("yes", "eos", 1, None)


async def test_an_end_without_a_reason_is_none() -> None:
    async with serving(raw(*sse([choice("", content="ha")])), GOOD) as (server, chat):
        assert (await ask(chat)).text == "<code>x = 1</code>"
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "pieces",
    [
        [choice(reasoning_content="so "), choice(reasoning_content="be it", content=None), choice(content="yes")],
        [choice(reasoning="so ", content=""), choice(reasoning="be it"), choice(content="yes")],
        [choice(reasoning="so be it", reasoning_content="so be it"), choice(reasoning="", content="yes")],
        [
            choice(reasoning="so be it", reasoning_details=[{"type": "reasoning.text"}]),
            choice(content="yes", reasoning=None),
        ],
    ],
)
async def test_every_family_says_its_reasoning_apart(pieces: list[object]) -> None:
    async with serving(streams(*pieces, ended())) as (_, chat):
        reply = await ask(chat)
    assert (reply.reasoning, reply.text) == ("so be it", "yes")


async def test_a_thought_in_the_text_stays_there() -> None:
    async with serving(streams(*text("<think>so</think>", "yes"), ended())) as (_, chat):
        reply = await ask(chat)
    assert (reply.reasoning, reply.text) == ("", "<think>so</think>yes")


async def test_a_refusal_is_text_and_tool_calls_are_said(caplog: pytest.LogCaptureFixture) -> None:
    calls = choice(tool_calls=[{"index": 0, "function": {"name": "python", "arguments": "{"}}])
    async with serving(
        streams(choice(content=None, refusal="I will not."), ended()), streams(calls, ended("tool_calls"))
    ) as (
        _,
        chat,
    ):
        assert (await ask(chat)).text == "I will not."
        for _ in range(2):
            assert (await ask(chat)).text == ""
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"m at {chat._server.url} calls tools that nobody offered it; these calls are not looked at"
    ]


async def test_a_server_that_does_not_stream_is_understood() -> None:
    message = {"role": "assistant", "content": "<code>1</code> more", "reasoning_content": "hm"}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage(3, 2)["usage"]}
    async with serving(lambda _: JSONResponse(body)) as (_, chat):
        reply = await ask(chat)
    assert (reply.text, reply.stop_reason, reply.reasoning) == ("<code>1</code>", "stop", "hm")
    assert reply.usage == Usage(prompt_tokens=3, completion_tokens=2)


async def test_strange_but_lawful_streams_are_read() -> None:
    odd = [
        b": OPENROUTER PROCESSING\r\n\r\n",
        b"event: message\nid: 1\ndata: " + json.dumps(choice(content="é\u2028")).encode() + b"\n\n",
        json.dumps(choice(content="\ud83d!")).encode().join((b"data:", b"\r\n\r\n")),
        *sse([{}, {"choices": None}, {"choices": [{}]}, choice(), ended("stop", logprobs=None, extra=[1])]),
    ]
    whole = b"".join(odd)
    async with serving(raw(*(whole[i : i + 1] for i in range(len(whole))))) as (_, chat):  # no [DONE] either
        assert (await ask(chat)).text == "é\u2028\ufffd!"


async def test_a_huge_reply_is_read_and_one_without_end_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(streams(*text(*["word " * 2000] * 500), ended())) as (_, chat):
        assert len((await ask(chat)).text) == 5_000_000
    monkeypatch.setattr(chat_server, "MAX_BYTES", 100_000)
    assert "more than 100,000 bytes" in await fails(raw(*[b"data: " + b"x" * 1000] * 200, then="hang"))
    assert "more than 100,000 bytes" in await fails(lambda _: JSONResponse({"error": "x" * 200_000}, 400))


async def test_many_replies_at_once() -> None:
    def echo(body: dict[str, object]) -> Response:
        return streams(*text(str(body["seed"])), ended(), usage(1, 1))(body)

    async with serving(echo) as (_, chat):
        replies = await asyncio.gather(*(ask(chat, Sampling(seed=seed)) for seed in range(50)))
    assert [reply.text for reply in replies] == [str(seed) for seed in range(50)]
    assert {reply.usage for reply in replies} == {Usage(prompt_tokens=1, completion_tokens=1)}


# What it costs


async def test_cost_and_cached_tokens_are_what_the_server_says() -> None:
    cached = usage(1000, 100, prompt_tokens_details={"cached_tokens": 400})
    hit = usage(1000, 100, prompt_cache_hit_tokens=400)  # DeepSeek
    told = usage(1000, 100, cost=0.5, prompt_tokens_details=None)  # OpenRouter
    answers = [streams(ended(), event) for event in (cached, hit, told)]
    async with serving(*answers) as (_, chat):
        first, second, third = [await ask(chat) for _ in range(3)]
    assert first.usage == second.usage
    assert first.usage == Usage(prompt_tokens=1000, completion_tokens=100, cached_tokens=400)
    assert third.usage == Usage(prompt_tokens=1000, completion_tokens=100, cost_usd=0.5)


async def test_a_usage_that_is_not_understood_costs_no_reply() -> None:
    told = usage(10, 5, cost={"input_tokens_cost": 0.1, "total_cost": 0.2})  # Perplexity
    odd: tuple[object, ...] = ({"prompt_tokens": -1}, {"prompt_tokens": None}, "much", [])
    strange = [{"choices": [], "usage": found} for found in odd]
    async with serving(*(streams(*text("ok"), ended(), event) for event in (told, *strange))) as (_, chat):
        first = await ask(chat)
        assert first.usage == Usage(prompt_tokens=10, completion_tokens=5, cost_usd=None)
        others = [await ask(chat) for _ in strange]
    assert [(reply.text, reply.usage) for reply in others] == [("ok", None)] * len(strange)


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
    assert ("restart", "") not in told  # nothing was told


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
        (streams(*text("a"), ended("content_filter")), "content filter"),
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


# Keys


async def test_a_key_is_sent_and_never_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    given: dict[str, Any] = {"key": Secret(KEY), "key_variable": "OTHER_KEY"}
    said = []
    for status in (400, 401, 403, 404, 429):
        said.append(await fails(refuses(status, f"bad key {KEY}!"), max_tries=1, **given))
    assert "refused the key in OTHER_KEY" in said[1]
    cut = await fails(refuses(400, f"{'x' * (295 - len(KEY) // 2)}{KEY}"), max_tries=1, **given)
    assert KEY[:4] not in cut
    async with serving(GOOD, **given) as (server, chat):
        await ask(chat)
        said += [repr(chat), repr(chat._server), repr(chat._server._client)]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert not [line for line in (*said, caplog.text) if KEY in line]


async def test_a_server_that_wants_no_key_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with ChatServer(GOOD) as server:
        chat = open_chat("m", url=server.url, key="", env_file="")
        await ask(chat)
        await chat.close()
    assert "authorization" not in server.headers[0]
    assert "wants a key (HTTP 401), and the configuration names none" in await fails(refuses(401, "?"))
    assert "and OTHER_KEY holds none" in await fails(refuses(401, "?"), key_variable="OTHER_KEY")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x/v1", "http://", "http://x:y/", "http://me:secret@x/v1", "http://x/v1?key=secret"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        OpenAIChat("m", base_url=url)
    assert "secret" not in str(raised.value)


# Before the first reply, and after the last


async def test_check_finds_the_model_among_those_listed() -> None:
    cards = [{"id": "other"}, {"id": "m", "object": "model", "max_model_len": 4096}]
    async with serving(GOOD, models=JSONResponse({"data": cards})) as (server, chat):
        await chat.check()
        assert not server.bodies


@pytest.mark.parametrize("models", [None, JSONResponse({"data": [{"id": "other"}]}), JSONResponse({}, 500)])
async def test_check_asks_for_a_word_where_the_model_is_not_listed(models: Response | None) -> None:
    async with serving(GOOD, models=models) as (server, chat):
        await chat.check()
        assert len(server.bodies) == 1
    async with serving(refuses(404, "no such model"), models=models) as (_, chat):
        with pytest.raises(EngineError, match="has no model m"):
            await chat.check()


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (HTMLResponse("<h1>hello</h1>"), "is not a list of models"),
        (Response(b"{", media_type="application/json"), "is not a list of models"),
        (JSONResponse({"error": {"message": "?"}}, 401), "wants a key"),
        (JSONResponse({"error": {"message": "no"}}, 403), "refused: HTTP 403: no"),
    ],
)
async def test_check_tells_what_is_wrong(models: Response, message: str) -> None:
    async with serving(GOOD, models=models) as (_, chat):
        with pytest.raises(EngineError, match=message):
            await chat.check()


async def test_close_leaves_nothing() -> None:
    async with ChatServer(GOOD, raw(*BEGUN, then="hang")) as server:
        warm = OpenAIChat("m", base_url=server.url)
        await ask(warm)
        await warm.close()
        descriptors, tasks = len(os.listdir("/proc/self/fd")), asyncio.all_tasks()
        chat = OpenAIChat("m", base_url=server.url)
        with pytest.raises(EngineError, match="no complete reply"):
            await ask(chat, deadline_s=0.3)
        await chat.close()
        await chat.close()
        with pytest.raises(EngineError, match="closed"):
            await ask(chat)
        gc.collect()
        while asyncio.all_tasks() - tasks or len(os.listdir("/proc/self/fd")) > descriptors:
            await asyncio.sleep(0)
