"""A chat engine before a scripted server on loopback, and a request to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from chat_servers import Answer, ChatServer, ended, streams, text, usage
from starlette.responses import Response

from lzero.engine.chat.engine import OpenAIChat
from lzero.errors import EngineError
from lzero.protocols import ChatEngine
from lzero.types import Completion, Message, Sampling

HELLO = (Message(role="system", content="Be brief."), Message(role="user", content="Who founded Liri?"))
CODE = Sampling(stop=("</code>",), seed=7, temperature=0.5, max_tokens=64)
GOOD = streams(*text("<code>", "x = 1", "</co", "de>"), ended(), usage(10, 4))


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
