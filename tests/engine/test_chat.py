"""The chat engine before real servers on loopback: every dialect, every refusal, every way in which a reply may not come."""

import asyncio
import gc
import json
import logging
import os
from typing import Any

import pytest
from chat_engines import GOOD, HELLO, ask, fails, serving
from chat_servers import ChatServer, choice, ended, raw, refuses, sse, streams, text, usage
from starlette.responses import HTMLResponse, JSONResponse, Response

from lzero.engine.chat import server as chat_server
from lzero.engine.chat.engine import OpenAIChat
from lzero.engine.chat.kind import open_chat
from lzero.errors import ConfigError, EngineError
from lzero.tools.keys import Secret
from lzero.types import Sampling, Usage

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("chat_environment")]
KEY = "sk-a-key-for-tests-only"
SHORTEST = ended("stop")


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


@pytest.mark.parametrize("tokens", [10**23, 2**62, -1, 1e300])
async def test_numbers_of_tokens_that_no_reply_has_are_not_kept(tokens: float) -> None:
    """The tables of a run have no place for them."""
    async with serving(streams(*text("a"), ended(), {"choices": [], "usage": {"prompt_tokens": tokens}})) as (_, chat):
        reply = await ask(chat)
    assert (reply.text, reply.usage) == ("a", None)


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


async def test_a_reply_with_a_part_of_a_character_is_read() -> None:
    """A model that samples bytes can end a reply anywhere."""
    (event,) = sse([choice(content="a?")])
    for cut in (b"\xf0\x9f", b"\\ud83d"):
        async with serving(raw(event.replace(b"?", cut), *sse([ended()]))) as (_, chat):
            assert (await ask(chat)).text == "a\ufffd"
    body = json.dumps({"choices": [{"message": {"content": "a?"}, "finish_reason": "stop"}]}).encode()
    async with serving(lambda _: Response(body.replace(b"?", b"\xf0\x9f"), media_type="application/json")) as (_, chat):
        assert (await ask(chat)).text == "a\ufffd"


async def test_a_huge_reply_is_read_and_one_without_end_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(streams(*text(*["word " * 2000] * 500), ended())) as (_, chat):
        assert len((await ask(chat)).text) == 5_000_000
    monkeypatch.setattr(chat_server, "MAX_BYTES", 100_000)
    assert "more than 100,000 bytes" in await fails(raw(*[b"data: " + b"x" * 1000] * 200, then="hang"))
    assert "more than 100,000 bytes" in await fails(lambda _: JSONResponse({"error": "x" * 200_000}, 400))


async def test_an_event_of_a_million_values_is_not_decoded() -> None:
    many = b'{"choices": [], "usage": [' + b"{}," * 200_000 + b"{}]}"
    assert "more than 100,000 values at once" in await fails(raw(b"data: " + many + b"\n\n", then="hang"))
    assert "more than 100,000 values at once" in await fails(
        lambda _: Response(many, 200, media_type="application/json")
    )
    assert "more than 100,000 values at once" in await fails(
        lambda _: Response(many, 400, media_type="application/json")
    )


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
    async with ChatServer(GOOD, raw(*sse(text("<code>", "x")), then="hang")) as server:
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
