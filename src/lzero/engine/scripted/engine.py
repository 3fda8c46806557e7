"""Engines without a model: a plain function of the transcript replies. Experts, weak policies and tests use them."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lzero.engine.chat.reply import StopCut
from lzero.errors import EngineError
from lzero.models import decode
from lzero.plugins import described
from lzero.protocols import ChatPolicy, OnText, Policy
from lzero.types import Completion, Message, Sampling, StopReason, Usage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class WithoutModel:
    """The part of an `Engine` that only a model gives a meaning to."""

    version = 0

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]:
        """Raise EngineError: people and scripts have no probabilities for texts that they did not write."""
        raise EngineError("people and scripted policies cannot score tokens; a model can")

    async def pause(self) -> None:
        pass

    async def resume(self) -> None:
        pass

    async def forget(self, affinity: str) -> None:
        pass

    async def close(self) -> None:
        pass


class ScriptedEngine(WithoutModel):
    """Samples from `policy`, which reads the whole decoded transcript and the request's seed, and returns a reply.

    `name`: the policy's, for messages.
    """

    def __init__(self, policy: Policy, tokenizer: "PreTrainedTokenizerFast", *, name: str = "") -> None:
        self._policy = policy
        self._tokenizer = tokenizer
        self._said = f"the scripted policy {name}".rstrip()

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        """Raises EngineError for a policy that raises, or returns no text."""
        try:
            reply = self._policy(decode(ids, self._tokenizer), sampling.seed)
        except Exception as error:
            raise EngineError(f"{self._said} raised {described(error)}") from error
        if not isinstance(reply, str):
            raise EngineError(f"{self._said} returned {type(reply).__name__}, not a text")
        return complete(reply, sampling, self._tokenizer)


class ScriptedChat:
    """Replies in words from `policy`, which reads the conversation and the request's seed.

    A word, with the space before it, counts as a token: in streamed pieces, in `max_tokens` and in the usage.
    """

    def __init__(self, policy: ChatPolicy, *, model: str = "scripted") -> None:
        self._policy = policy
        self._model = model

    @property
    def model(self) -> str:
        return self._model

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        request_id: str,
        deadline_s: float,
        on_text: OnText | None = None,
    ) -> Completion:
        cut = StopCut(sampling.stop)
        cut.feed(self._policy(messages, sampling.seed))
        pieces = _words(cut.text)
        stop_reason: StopReason = "stop" if cut.stopped else "eos"
        if len(pieces) > sampling.max_tokens:
            pieces, stop_reason = pieces[: sampling.max_tokens], "length"
        if on_text is not None:
            for piece in pieces:
                on_text("text", piece)
        return Completion(
            token_ids=(),
            logprobs=(),
            text="".join(pieces),
            stop_reason=stop_reason,
            versions=(),
            usage=Usage(
                prompt_tokens=sum(len(_words(message.content)) for message in messages),
                completion_tokens=len(pieces),
                cost_usd=0.0,
            ),
        )

    async def close(self) -> None:
        pass


def complete(reply: str, sampling: Sampling, tokenizer: "PreTrainedTokenizerFast") -> Completion:
    """Return a reply as an engine does: cut after the first stop string, else ended by the end-of-turn token, within `max_tokens`.

    Its log-probabilities are 0, because a script is deterministic; temperature and top-p have no effect.
    """
    ends = [reply.index(text) + len(text) for text in sampling.stop if text in reply]
    stop_reason: StopReason = "stop" if ends else "eos"
    token_ids = tokenizer.encode(reply[: min(ends, default=None)], add_special_tokens=False, split_special_tokens=True)
    if not ends:
        token_ids.append(tokenizer.eos_token_id)
    if len(token_ids) > sampling.max_tokens:
        token_ids, stop_reason = token_ids[: sampling.max_tokens], "length"
    return Completion(
        token_ids=tuple(token_ids),
        logprobs=(0.0,) * len(token_ids),
        text=decode(token_ids[:-1] if stop_reason == "eos" else token_ids, tokenizer),
        stop_reason=stop_reason,
        versions=((0, len(token_ids)),),
    )


def _words(text: str) -> list[str]:
    """Return the text in pieces, which joined give the whole text."""
    return re.findall(r"\s*\S+|\s+", text)
