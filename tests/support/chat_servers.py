"""An OpenAI-compatible server on loopback with scripted responses, one per request; the last is repeated."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Answer = Callable[[dict[str, Any]], Response]


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ChatServer:
    def __init__(self, *answers: Answer, models: Response | None = None) -> None:
        """`models`: the response to GET /v1/models; None: no such page."""
        self._answers = list(answers)
        self._models = models
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.left = asyncio.Event()
        """A client went while it was being answered."""
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._list, methods=["GET"]),
        ]
        self._app = Starlette(routes=routes)

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        config = uvicorn.Config(self._app, lifespan="off", log_config=None, log_level="critical", access_log=False)
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        await self._serving

    async def _chat(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        response = answer(self.bodies[-1])
        if isinstance(response, StreamingResponse):
            response.body_iterator = self._watched(response.body_iterator)
        return response

    async def _watched(self, body: Any) -> AsyncIterator[bytes]:
        try:
            async for piece in body:
                yield piece
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def _list(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return self._models or JSONResponse({"detail": "Not Found"}, 404)


def choice(finish_reason: str | None = None, /, **delta: object) -> dict[str, Any]:
    """Return an event with a piece of a reply."""
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


def ended(finish_reason: str = "stop", /, **fields: object) -> dict[str, Any]:
    """Return the event that ends a reply; `fields` belong to the choice."""
    event = choice(finish_reason)
    event["choices"][0].update(fields)
    return event


def usage(prompt: int, completion: int, **fields: object) -> dict[str, Any]:
    """Return the event with only the usage."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **fields}
    return {"choices": [], "usage": counts}


def text(*pieces: str) -> list[dict[str, Any]]:
    return [choice(role="assistant", content=""), *(choice(content=piece) for piece in pieces)]


def sse(events: Sequence[object]) -> list[bytes]:
    return [f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode() for event in events]


def streams(*events: object, done: bool = True) -> Answer:
    """Return an answer that streams the events (strings unchanged) and [DONE]."""
    return raw(*sse((*events, "[DONE]") if done else events))


def raw(*pieces: bytes, then: str = "end", content_type: str = "text/event-stream") -> Answer:
    """Return an answer that sends the bytes, and then ends, dies (`then="die"`) or falls silent (`then="hang"`)."""

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        if then == "die":
            raise ConnectionResetError
        if then == "hang":
            await asyncio.Event().wait()

    return lambda _: StreamingResponse(body(), media_type=content_type)


def refuses(status: int, message: str, *, headers: dict[str, str] | None = None, **fields: object) -> Answer:
    """Return an error in OpenAI's format."""
    return lambda _: JSONResponse({"error": {"message": message, **fields}}, status, headers=headers)
