"""The conversation between agent and model, with its size: in exact tokens, or in words with an endpoint's count.

conversation.start(system, task)  ─▶  reply  ─▶  say(output)  ─▶  reply  ─▶  …   each prompt extends the last sequence
              ▲                                                     │
              └──────────── a new start after a trim ◀──────────────┘
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from lzero.agent.renderer import Renderer
from lzero.marking import without_control_tokens
from lzero.protocols import ChatEngine, Engine, OnText
from lzero.text import unbroken
from lzero.types import Completion, Message, Prompt, Sampling

_BYTES_PER_TOKEN = 3
"""Bytes per token of text that an endpoint has not counted yet. Most languages and tokenizers need fewer tokens, so limits hold."""
_TOKENS_PER_TURN = 8


class Conversation(Protocol):
    """Turns of a user and a model. One episode has one conversation, and starts it anew after a trim of its context."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the next prompt, which contains everything so far."""

    @property
    def opening(self) -> str:
        """Text that the template writes at the start of a reply: "<think>", or nothing."""

    def start(self, system: str | None, user: str) -> None:
        """Begin a new conversation; earlier turns are dropped."""

    def say(self, text: str) -> None:
        """Add a user turn, after a reply."""

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens that `say(text)` would add."""

    async def reply(self, sampling: Sampling, *, request_id: str, on_text: OnText) -> tuple[Prompt, Completion]:
        """Return the prompt, as a change of the last sequence, and the model's next turn. Raises EngineError."""

    async def close(self) -> None: ...


class Model(Protocol):
    """A model that conversations are held with."""

    def converse(self, episode_id: str) -> Conversation: ...


@dataclass(frozen=True)
class TokenModel:
    """A model with tokens that lzero sees, as training needs."""

    engine: Engine
    renderer: Renderer
    request_timeout_s: float

    def converse(self, episode_id: str) -> "TokenConversation":
        return TokenConversation(self, episode_id)


class TokenConversation:
    def __init__(self, model: TokenModel, episode_id: str) -> None:
        self._model = model
        self._affinity = episode_id
        self._ids: tuple[int, ...] = ()
        """The last sequence, and the turns since."""
        self._kept = 0
        self._last: Completion | None = None
        self._encoded: tuple[str, tuple[int, ...]] = ("", ())
        """The last text whose tokens were counted, with its tokens; a text that fits is usually added next."""

    @property
    def num_tokens(self) -> int:
        return len(self._ids)

    @property
    def opening(self) -> str:
        return self._model.renderer.opening

    def start(self, system: str | None, user: str) -> None:
        self._ids, self._kept, self._last = self._model.renderer.start(system, user), 0, None
        self._encoded = "", ()

    def say(self, text: str) -> None:
        self._ids += self._turn(text)

    def count_tokens(self, text: str) -> int:
        return len(self._turn(text))

    async def reply(self, sampling: Sampling, *, request_id: str, on_text: OnText) -> tuple[Prompt, Completion]:
        completion = await self._model.engine.sample(
            self._ids,
            sampling,
            request_id=request_id,
            affinity=self._affinity,
            deadline_s=self._model.request_timeout_s,
        )
        prompt = Prompt(keep=self._kept, new_ids=self._ids[self._kept :])
        self._ids = (*self._ids, *completion.token_ids)
        self._kept, self._last, self._encoded = len(self._ids), completion, ("", ())
        on_text("text", completion.text)
        return prompt, completion

    async def close(self) -> None:
        await self._model.engine.forget(self._affinity)

    def _turn(self, text: str) -> tuple[int, ...]:
        if self._encoded[0] != text:
            self._encoded = text, self._model.renderer.turn(self._last, text)
        return self._encoded[1]


@dataclass(frozen=True)
class ChatModel:
    """A model behind an endpoint that replies in words."""

    engine: ChatEngine
    request_timeout_s: float
    past_thoughts: Literal["dropped", "field", "text"] = "dropped"
    """Form of past thoughts in later requests; see `AgentConfig.past_thoughts`."""

    def converse(self, episode_id: str) -> "ChatConversation":
        return ChatConversation(self)


class ChatConversation:
    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self._messages: list[Message] = []
        self._kept = 0
        self._counted = 0
        """Number of tokens of the conversation: counted by the endpoint up to the last reply, estimated since."""

    @property
    def num_tokens(self) -> int:
        return self._counted

    @property
    def opening(self) -> str:
        return ""

    def start(self, system: str | None, user: str) -> None:
        self._messages, self._kept, self._counted = [], 0, 0
        if system is not None:
            self._add("system", system)
        self._add("user", user)

    def say(self, text: str) -> None:
        self._add("user", text)

    def count_tokens(self, text: str) -> int:
        return len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN + _TOKENS_PER_TURN

    async def reply(self, sampling: Sampling, *, request_id: str, on_text: OnText) -> tuple[Prompt, Completion]:
        completion = await self._model.engine.reply(
            self._messages,
            sampling,
            request_id=request_id,
            deadline_s=self._model.request_timeout_s,
            on_text=on_text,
        )
        text, reasoning = unbroken(completion.text), unbroken(completion.reasoning)
        completion = msgspec.structs.replace(completion, text=text, reasoning=reasoning)
        prompt = Prompt(keep=self._kept, new_ids=(), new_messages=tuple(self._messages[self._kept :]))
        said = self._said(completion)
        self._messages.append(said)
        self._kept = len(self._messages)
        if completion.usage is not None and completion.usage.prompt_tokens:  # some servers report 0 for a cached prompt
            dropped = completion.reasoning and not said.reasoning and completion.reasoning not in said.content
            thought = self.count_tokens(completion.reasoning) if dropped else 0
            self._counted = max(0, completion.usage.prompt_tokens + completion.usage.completion_tokens - thought)
        else:
            self._counted += self.count_tokens(said.reasoning + said.content)
        return prompt, completion

    def _said(self, completion: Completion) -> Message:
        """Return the reply in the form in which later requests contain it."""
        text, thought = completion.text, completion.reasoning
        if not text or not thought:
            return Message(role="assistant", content=text or thought)
        match self._model.past_thoughts:
            case "field":
                return Message(role="assistant", content=text, reasoning=thought)
            case "text":
                return Message(role="assistant", content=f"<think>{thought}</think>{text}")
            case "dropped":
                return Message(role="assistant", content=text)

    async def close(self) -> None: ...

    def _add(self, role: Literal["system", "user"], text: str) -> None:
        content = without_control_tokens(text)
        self._messages.append(Message(role=role, content=content))
        self._counted += self.count_tokens(content)
