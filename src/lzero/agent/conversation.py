"""What is said between agent and model, and what it takes: exact tokens, or words and what an endpoint counts.

conversation.start(system, task)  ─▶  reply  ─▶  say(output)  ─▶  reply  ─▶  …   each prompt extends the last sequence
              ▲                                                     │
              └──────────── afresh, where the context is trimmed ◀──┘
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from lzero.agent.outputs import unbroken
from lzero.agent.renderer import Renderer
from lzero.marking import without_control_tokens
from lzero.protocols import ChatEngine, Engine, OnText
from lzero.types import Completion, Message, Prompt, Sampling

_BYTES_PER_TOKEN = 3
"""Of text that an endpoint has not counted yet; more than it takes in most languages and tokenizers, so that limits hold."""
_TOKENS_PER_TURN = 8


class Conversation(Protocol):
    """Turns of a user and a model. One episode leads one conversation, and begins it afresh where its context is trimmed."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the next prompt: of all that has been said so far."""

    @property
    def opening(self) -> str:
        """What the template has written of a reply before the model begins: "<think>", or nothing."""

    def start(self, system: str | None, user: str) -> None:
        """Begin afresh: what was said before is not part of it any more."""

    def say(self, text: str) -> None:
        """Add a user turn, after a reply."""

    def count_tokens(self, text: str) -> int:
        """Tokens that `say(text)` would add."""

    async def reply(self, sampling: Sampling, *, request_id: str, on_text: OnText) -> tuple[Prompt, Completion]:
        """The model's next turn, and how its prompt follows from the last sequence. Raises EngineError."""

    async def close(self) -> None: ...


class Model(Protocol):
    """What conversations are led with."""

    def converse(self, episode_id: str) -> Conversation: ...


@dataclass(frozen=True)
class TokenModel:
    """A model whose tokens are ours: what training needs."""

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
        """The last sequence, and what has been said since."""
        self._kept = 0
        self._last: Completion | None = None
        self._encoded: tuple[str, tuple[int, ...]] = ("", ())
        """The last turn that was asked about: what fits is then said."""

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
        self._ids = (*self._ids, *self._turn(text))

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
    """A model behind an endpoint that speaks in words."""

    engine: ChatEngine
    request_timeout_s: float
    past_thoughts: Literal["dropped", "field", "text"] = "dropped"
    """As `AgentConfig.past_thoughts`."""

    def converse(self, episode_id: str) -> "ChatConversation":
        return ChatConversation(self)


class ChatConversation:
    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self._messages: list[Message] = []
        self._kept = 0
        self._counted = 0
        """Tokens of all that is said, as the endpoint counted up to the last reply and as we guess since."""

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
        if completion.usage is not None and completion.usage.prompt_tokens:  # some say 0 of what they had cached
            dropped = completion.reasoning and not said.reasoning and completion.reasoning not in said.content
            thought = self.count_tokens(completion.reasoning) if dropped else 0
            self._counted = max(0, completion.usage.prompt_tokens + completion.usage.completion_tokens - thought)
        else:
            self._counted += self.count_tokens(said.reasoning + said.content)
        return prompt, completion

    def _said(self, completion: Completion) -> Message:
        """The reply, as it is sent from now on."""
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
