"""Get replies from any OpenAI-compatible server: OpenAI, vLLM, SGLang, Ollama, `transformers serve`, OpenRouter, DeepSeek …

    chat = OpenAIChat("Qwen/Qwen3-8B", base_url="http://127.0.0.1:8000/v1")
    await chat.check()
    messages = [Message(role="user", content="Who founded Liri?")]
    completion = await chat.reply(messages, Sampling(), request_id="1", deadline_s=60.0, on_text=show)

Servers differ in the options they accept, in their responses and in their failures. A refused option is left out from then on, with a
warning. Differences in stop strings are corrected here. Transient failures are retried until the deadline.
"""

import asyncio
import logging
import os
import random
from collections.abc import Mapping, Sequence
from contextlib import aclosing

from openai import AsyncStream

from lzero.engine.chat.failures import OptionRefused, TryAgain
from lzero.engine.chat.reply import Gathering, Telling
from lzero.engine.chat.server import ChatServer, events
from lzero.errors import ConfigError, EngineError
from lzero.protocols import OnText
from lzero.tools.keys import Secret
from lzero.tools.retry import Backoff
from lzero.types import Completion, Message, Sampling

OPENAI_URL = "https://api.openai.com/v1"
WAITS = Backoff(longest_s=30.0)
CHECK_S = 30.0
"""Seconds for the list of models, and for the reply that `check` requests if the model is not listed."""
USAGE_S = 2.0
"""Seconds to wait for the usage of a complete reply."""
_WITHOUT = {
    "max_tokens": "max_completion_tokens is sent instead",
    "stop": "its replies are stopped here",
    "stream_options": "their usage may not be known",
}
"""Option that a server refuses → what happens without it."""
_log = logging.getLogger(__name__)


class OpenAIChat:
    """A chat model behind an OpenAI-compatible server. Any number of replies may be requested concurrently."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str = "",
        key: Secret | None = None,
        key_variable: str = "",
        stall_s: float = 60.0,
        max_tries: int = 5,
    ) -> None:
        """Configure the connection. Raises ConfigError.

        `base_url` usually ends in /v1; "": $OPENAI_BASE_URL, else OpenAI's own. `key_variable` names the variable of the key in messages.
        `stall_s`: seconds that a reply may pause once it has begun.
        """
        url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        if url == OPENAI_URL and model.startswith((".", "/", "~")):
            raise ConfigError(
                f"model {model!r}: no such directory. If it is the name of a model at an endpoint, give its base URL, too"
            )
        self._server = ChatServer(model, url=url, key=key, key_variable=key_variable)
        self._stall_s = stall_s
        self._max_tries = max_tries
        self._refused: set[str] = set()
        self._thought_fields: set[str] = set()
        """Fields in which this server has sent thoughts, and gets them back."""
        self._warned: set[str] = set()
        self._closed = False

    @property
    def model(self) -> str:
        return self._server.model

    async def check(self) -> None:
        """Ask the server for its models. Raises EngineError if it cannot be reached, refuses the key, or lacks the model.

        A model that it does not list may still exist (a local directory, a variant); then a short reply decides.
        """
        try:
            async with asyncio.timeout(CHECK_S):
                models = await self._server.models()
        except TimeoutError:
            raise EngineError(f"{self._server.url}/models did not answer within {CHECK_S:g} s") from None
        except TryAgain as failed:
            raise EngineError(str(failed)) from None
        if not any(card.id == self.model for card in models or ()):
            hello = Message(role="user", content="Say hello.")
            await self.reply((hello,), Sampling(max_tokens=16), request_id="check", deadline_s=CHECK_S)

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        request_id: str,
        deadline_s: float,
        on_text: OnText | None = None,
    ) -> Completion:
        """Return a reply; see `protocols.ChatEngine`. A cancellation, like the deadline, closes the connection, so the server stops
        sampling."""
        if self._closed:
            raise EngineError(f"the engine of {self.model} is closed")
        telling = Telling(on_text)
        failures: list[TryAgain] = []
        deadline = asyncio.timeout(deadline_s)
        try:
            async with deadline:
                while True:
                    try:
                        return await self._try_once(messages, sampling, request_id, telling)
                    except OptionRefused as refused:
                        self._leave_out(refused)
                    except TryAgain as failed:
                        failures.append(failed)
                        await asyncio.sleep(self._wait_s(failures, deadline, request_id))
                    telling.restart()
        except TimeoutError:
            if not deadline.expired():
                raise
            last = f"; the last of {len(failures)} failures before that: {failures[-1]}" if failures else ""
            raise EngineError(f"{self._server} gave no complete reply within {deadline_s:g} s{last}") from None

    async def close(self) -> None:
        """Close every connection. Safe to call twice."""
        self._closed = True
        await self._server.close()

    async def _try_once(
        self, messages: Sequence[Message], sampling: Sampling, request_id: str, telling: Telling
    ) -> Completion:
        """Make one attempt at a reply. Raises EngineError, TryAgain, OptionRefused."""
        body = self._body(messages, sampling)
        stream = await self._server.ask(body, request_id)
        gathering = Gathering(sampling.stop, telling)
        try:
            await self._gather(stream, gathering, body)
            return self._completion(gathering)
        finally:
            await stream.close()

    def _body(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, object]:
        """Return the request, without the options that the server refuses."""
        longest = "max_completion_tokens" if "max_tokens" in self._refused else "max_tokens"
        options: dict[str, object] = {
            "stream_options": {"include_usage": True},
            longest: sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        if sampling.stop:
            options["stop"] = list(sampling.stop)
        return {
            "model": self.model,
            "messages": [self._message(message) for message in messages],
            "stream": True,
            **{name: value for name, value in options.items() if name not in self._refused},
        }

    def _message(self, message: Message) -> dict[str, str]:
        thought = dict.fromkeys(sorted(self._thought_fields), message.reasoning) if message.reasoning else {}
        return {"role": message.role, "content": message.content, **thought}

    async def _gather(self, stream: AsyncStream[object], gathering: Gathering, body: Mapping[str, object]) -> None:
        """Read a reply to its end. After the end, or a stop string that the server left in, wait only for the usage.

        A server that goes on sampling is disconnected.
        """
        try:
            async with aclosing(events(stream)) as coming:
                while not gathering.overrun:
                    stall_s = self._stall_s if gathering.begun else None  # the first piece may take any prompt's time
                    if gathering.whole:
                        stall_s = min(self._stall_s, USAGE_S)
                    chunk = await self._server.next_chunk(coming, body, stall_s=stall_s)
                    if chunk is None:
                        break
                    gathering.add(chunk)
                    if chunk.delta is not None:
                        self._thought_fields.update(chunk.delta.thoughts)
        except (TryAgain, EngineError):
            if not gathering.whole:
                raise
        if not gathering.whole:
            raise TryAgain(f"the reply of {self._server} broke off")

    def _completion(self, gathering: Gathering) -> Completion:
        if gathering.has_tool_calls:
            self._warn("%s calls tools that nobody offered it; these calls are not looked at", self._server)
        if gathering.finish_reason == "content_filter":
            self._warn("the content filter of %s cuts replies off: they count as far as they go", self._server)
        return Completion(
            token_ids=(),
            logprobs=(),
            stop_reason=gathering.end(),
            text=gathering.text,
            versions=(),
            reasoning=gathering.reasoning,
            usage=gathering.usage,
        )

    def _leave_out(self, refused: OptionRefused) -> None:
        """Remember that the server refuses an option."""
        self._refused.add(refused.option)
        effect = _WITHOUT.get(refused.option, "it samples as it likes")
        self._warn("%s does not take %s: %s (it says: %s)", self._server, refused.option, effect, refused)

    def _warn(self, message: str, *values: object) -> None:
        """Log a warning once, because concurrent replies find the same problem."""
        if (said := message % values) not in self._warned:
            self._warned.add(said)
            _log.warning(message, *values)

    def _wait_s(self, failures: Sequence[TryAgain], deadline: asyncio.Timeout, request_id: str) -> float:
        """Return the seconds to wait after the last failure. Raises EngineError if no tries, or no time for another, are left."""
        last = failures[-1]
        if len(failures) >= self._max_tries:
            raise EngineError(f"{last} (tried {len(failures)} times)") from None
        jitter = random.Random(f"{request_id} {len(failures)}")
        wait_s = WAITS.pause_s(len(failures), jitter) if last.after_s is None else last.after_s
        ends_at = deadline.when()
        assert ends_at is not None
        if wait_s > ends_at - asyncio.get_running_loop().time():
            raise EngineError(f"{last} (the next try, in {wait_s:.3g} s, would come after the deadline)") from None
        return wait_s
