"""Connect to one OpenAI-compatible server: its address, its key, its connections, and its failures as one sentence each."""

import asyncio
import difflib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import msgspec
import openai
from openai import AsyncOpenAI, AsyncStream

from lzero.engine.chat.failures import (
    OptionRefused,
    TryAgain,
    is_filtered,
    is_overflow,
    may_pass,
    refused_option,
    words_of,
)
from lzero.engine.chat.wire import Chunk, ModelCard, ModelList
from lzero.errors import ConfigError, ContentRefused, ContextOverflow, EngineError
from lzero.json_bounds import EventCounter, ValueCounter
from lzero.json_repair import Repair
from lzero.text import one_line
from lzero.tools.keys import Secret
from lzero.tools.retry import retry_after
from lzero.turns import in_turns

MAX_BYTES = 256 << 20
"""Bytes of the largest streamed response; some hundred bytes per token are usual."""
MAX_EVENT_BYTES = 8 << 20
"""Bytes of the largest event of a stream, and of the largest response that is not streamed: each is read completely before it is
decoded."""
MAX_EVENT_VALUES = 100_000
"""Objects, lists and commas in such an event or response. Decoding a million of them holds up the event loop for a fifth of a second."""
_BLANK_LINES = (b"\n\n", b"\n\r\n", b"\r\r")
"""The ends of an event."""
CONNECT_S = 15.0
MODELS_NAMED = 12
_NAMES, _NAME_CHARS = 1_000, 200
"""Number of model names that are read, and characters of each: comparing names takes more than linear time."""


class ChatServer:
    """Requests replies of `model`, and the list of models. It holds the key, and sends it to no other server."""

    def __init__(self, model: str, *, url: str, key: Secret | None, key_variable: str) -> None:
        """Raise ConfigError for an invalid address."""
        self.model = model
        self.url = _checked_url(url)
        self._key = key.reveal() if key is not None else ""
        self._key_variable = key_variable
        self._client = AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self.url,
            max_retries=0,  # `OpenAIChat.reply` retries, because it knows the deadline
            timeout=openai.Timeout(None, connect=CONNECT_S),
            # A redirect could send the conversation to another server.
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_bound]}, follow_redirects=False),
        )
        # A compressed response could be far larger than the bytes that are counted.
        self._headers: dict[str, Any] = {"Accept-Encoding": "identity"}
        if not self._key:
            self._headers["Authorization"] = openai.omit

    def __str__(self) -> str:
        return f"{self.model} at {self.url}"

    async def ask(self, body: Mapping[str, object], request_id: str) -> AsyncStream[object]:
        """Begin a reply. Raises EngineError, TryAgain, OptionRefused."""
        headers = {**self._headers, "X-Client-Request-Id": quote(request_id, safe="/:")[:512]}
        try:
            return await self._client.post(
                "/chat/completions",
                cast_to=object,
                body=body,
                options={"headers": headers},
                stream=True,
                stream_cls=AsyncStream[object],
            )
        except openai.APIStatusError as error:
            raise await self._refusal(error, body) from None
        except openai.APIConnectionError as error:
            raise self._unreachable(error) from None
        except httpx2.RequestError as error:  # while it was explaining itself
            raise TryAgain(f"{self} broke off: {error}") from None

    async def next_chunk(
        self, events: AsyncIterator[object], body: Mapping[str, object], *, stall_s: float | None
    ) -> Chunk | None:
        """Return the next chunk of the reply to `body`; None after the last. Raises EngineError, TryAgain, OptionRefused."""
        try:
            async with asyncio.timeout(stall_s):
                event = await anext(events, None)
            if event is None:
                return None
            chunk = msgspec.convert(event, Chunk)
        except TimeoutError:
            raise TryAgain(f"the reply of {self} stopped coming for {stall_s:g} s") from None
        except (openai.APIConnectionError, httpx2.RequestError) as error:
            raise TryAgain(f"the reply of {self} broke off: {_reason(error)}") from None
        except openai.APIError as error:
            raise self._told_failure(error.body, body) from None
        except msgspec.ValidationError as error:
            raise EngineError(f"{self} sent an invalid chat completion: {error}") from None
        except (ValueError, RecursionError) as error:
            raise EngineError(
                f"{self} sent invalid JSON ({error!s:.100}): check that it is an OpenAI-compatible server"
            ) from None
        if chunk.error:
            raise self._told_failure(chunk.error, body)
        return chunk

    async def models(self) -> list[ModelCard] | None:
        """Return the models that the server lists; None if it cannot. Raises EngineError, TryAgain."""
        try:
            answer = await self._client.get("/models", cast_to=object, options={"headers": self._headers})
            return msgspec.convert(answer, ModelList).data
        except openai.APIConnectionError as error:
            raise self._unreachable(error) from None
        except openai.APIStatusError as error:
            if (
                error.status_code in (404, 405) or error.status_code >= 500
            ):  # the last: `transformers serve` without a cache
                return None
            if error.status_code == 401:
                raise self._wrong_key() from None
            raise EngineError(f"{self.url}/models refused: {self._said(error)}") from None
        except httpx2.RequestError as error:
            raise TryAgain(f"{self.url}/models broke off: {error}") from None
        except (msgspec.ValidationError, ValueError, RecursionError):
            raise EngineError(
                f"{self.url}/models is not a list of models: check that it is an OpenAI-compatible server, and that its address ends in /v1"
            ) from None

    async def close(self) -> None:
        """Close every connection. Safe to call twice."""
        await self._client.close()

    async def _refusal(self, error: openai.APIStatusError, body: Mapping[str, object]) -> Exception:
        status, words, said = error.status_code, self._words(error.body), self._said(error)
        if status == 401:
            return self._wrong_key()
        if 300 <= status < 400:
            place = one_line(error.response.headers.get("location", "")[:200])
            return EngineError(f"{self.url} redirects to {place!r}: set the address of the server to where it is")
        if status == 404:
            return EngineError(f"{self.url} has no model {self.model}, or no chat ({said}){await self._alternatives()}")
        if may_pass(status, error.response.headers, code=error.code):
            return TryAgain(f"{self} refused: {said}", after_s=retry_after(error.response.headers))
        if status in (400, 403, 422, 451) and is_filtered(words, code=error.code):
            return self._filtered(said)
        if status in (400, 413, 422):
            if is_overflow(words, code=error.code, status=status):
                return self._overflow(said)
            option = refused_option(body, words, code=error.code, param=error.param)
            if option is not None:
                return OptionRefused(option, words)
        return EngineError(f"{self} refused: {said}")

    def _told_failure(self, told: object, body: Mapping[str, object]) -> Exception:
        """Return the exception for an error that comes instead of a reply, or in the middle of one."""
        words = self._words(told) or "an error without a word"
        code = told.get("code") if isinstance(told, dict) else None
        if is_overflow(words, code=str(code), status=None):
            return self._overflow(words)
        if is_filtered(words, code=str(code)):
            return self._filtered(words)
        if isinstance(code, int) and not may_pass(code, {}, code=None):
            option = refused_option(body, words, code=None, param=None)
            return EngineError(f"{self} failed: {words}") if option is None else OptionRefused(option, words)
        return TryAgain(f"{self} failed: {words}")

    def _overflow(self, said: str) -> ContextOverflow:
        return ContextOverflow(f"the conversation and the reply do not fit into the context of {self}: {said}")

    def _filtered(self, said: str) -> ContentRefused:
        return ContentRefused(f"the content filter of {self} refuses the conversation: {said}")

    def _unreachable(self, error: openai.APIConnectionError) -> TryAgain:
        return TryAgain(f"cannot reach {self.url}: {_reason(error)}; is the server running, and the address right?")

    def _wrong_key(self) -> EngineError:
        """Return the error for a refused key, without the server's message, because some contain a part of the key."""
        if self._key:
            return EngineError(f"{self.url} refused the key in {self._key_variable} (HTTP 401)")
        without = f"{self._key_variable} holds none" if self._key_variable else "the configuration names none"
        return EngineError(f"{self.url} wants a key (HTTP 401), and {without}")

    def _said(self, error: openai.APIStatusError) -> str:
        words = self._words(error.body)
        return f"HTTP {error.status_code}" + (f": {words}" if words else "")

    def _words(self, body: object) -> str:
        return words_of(body, secret=self._key)

    async def _alternatives(self) -> str:
        """Return a hint on models to use instead of a missing one."""
        try:
            async with asyncio.timeout(CONNECT_S):
                models = await self.models()
        except (TimeoutError, EngineError, TryAgain):
            models = None
        if models is None:
            return "; check that the address ends in /v1"
        names = [card.id[:_NAME_CHARS] for card in models[:_NAMES]]
        near = difflib.get_close_matches(self.model, names, n=MODELS_NAMED, cutoff=0.4)
        shown = list(dict.fromkeys((*near, *names)))[:MODELS_NAMED]
        more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        return f"; it has {', '.join(shown)}{more}" if shown else "; it lists no model at all"


async def events(stream: AsyncStream[object]) -> AsyncGenerator[object, None]:
    """Yield the events of a stream; if the server does not stream, its response as one event."""
    kind = _media_type(stream.response)
    if kind == "application/json":
        yield json.loads(await stream.response.aread())
    elif kind == "text/html":
        raise EngineError(
            f"{stream.response.request.url} is a web page: check that the address of the server ends in /v1"
        )
    else:
        async for event in stream:
            yield event


class _Bounded(httpx2.AsyncByteStream):
    """The bytes of a response, with bounds on the whole and on one event."""

    def __init__(self, stream: httpx2.AsyncByteStream, url: str, *, streamed: bool) -> None:
        self._stream = stream
        self._url = url
        self._streamed = streamed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = event = 0
        end = b""
        values = EventCounter() if self._streamed else ValueCounter()
        characters = Repair()  # a server that writes bytes of tokens may end with a part of a character
        async with aclosing(in_turns(self._stream)) as pieces:
            async for piece in pieces:
                total += len(piece)
                joined = end + piece
                blank = max(joined.rfind(line) for line in _BLANK_LINES) if self._streamed else -1
                event = len(joined) - blank if blank >= 0 else event + len(piece)
                end = joined[-2:]
                if total > MAX_BYTES:
                    raise EngineError(f"{self._url} answered with more than {MAX_BYTES:,} bytes")
                if event > MAX_EVENT_BYTES:
                    raise EngineError(f"{self._url} answered with more than {MAX_EVENT_BYTES:,} bytes at once")
                if values.add(piece) > MAX_EVENT_VALUES:
                    raise EngineError(f"{self._url} answered with more than {MAX_EVENT_VALUES:,} values at once")
                yield characters.add(piece)
        yield characters.add(b"", last=True)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: httpx2.Response) -> None:
    url = str(response.request.url)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise EngineError(f"{url} compressed what it was asked to send as it is")
    response.encoding = "utf-8"  # whatever the server names: some encodings of Python's take quadratic time, or fail
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream, url, streamed=_media_type(response) == "text/event-stream")


def _media_type(response: httpx2.Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f'{url!r} is not the address of a server, as in "http://127.0.0.1:8000/v1"')
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"the address of the server at {parts.hostname} holds more than host, port and path; a key is given by itself"
        )
    return url.rstrip("/")


def _reason(error: BaseException) -> str:
    """Return the innermost message of a chain of errors: that of the system, or of the protocol."""
    words = ""
    cause: BaseException | None = error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        number = cause.errno if isinstance(cause, OSError) else None
        words = os.strerror(number) if number is not None and number > 0 else str(cause) or words
        cause = cause.__cause__ or cause.__context__
    return words or str(error)
