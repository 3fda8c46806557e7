"""Types of the responses of OpenAI-compatible servers, in the dialects of their families; fields not listed here are ignored."""

import math
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from lzero.types import Usage

Count = Annotated[int, Meta(ge=0, le=1 << 40)]
"""Number of tokens; a larger one would fit into no table."""


class Delta(Struct):
    """A piece of the reply, or all of it if a server does not stream."""

    content: str | None = None
    refusal: str | None = None
    """Text of the model when it refuses (OpenAI)."""
    reasoning_content: Any = None
    """DeepSeek, vLLM, SGLang, transformers. Servers that send this and `reasoning` say the same in both."""
    reasoning: Any = None
    """OpenRouter, Ollama, newer vLLM."""
    tool_calls: Any = None

    @property
    def thoughts(self) -> dict[str, str]:
        """The thoughts, by the name of their field."""
        fields = {"reasoning_content": self.reasoning_content, "reasoning": self.reasoning}
        return {name: text for name, text in fields.items() if isinstance(text, str) and text}

    @property
    def thought(self) -> str:
        return next(iter(self.thoughts.values()), "")

    @property
    def text(self) -> str:
        return (self.content or "") + (self.refusal or "")


class Choice(Struct):
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    """vLLM: the stop string, or the id of the token that ended the turn; null for the usual one."""
    matched_stop: str | int | UnsetType | None = UNSET
    """SGLang: the same."""

    @property
    def told_stop(self) -> str | int | UnsetType | None:
        """The cause of the reply's end; UNSET if the server does not report it."""
        return self.matched_stop if self.stop_reason is UNSET else self.stop_reason


class PromptDetails(Struct):
    cached_tokens: Count | None = None


class Counts(Struct):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: PromptDetails | None = None
    prompt_cache_hit_tokens: Count | None = None
    """DeepSeek's name for the number of cached prompt tokens."""
    cost: Any = None
    """US dollars (OpenRouter); other servers use the name for something else."""

    def usage(self) -> Usage:
        cost, details = self.cost, self.prompt_tokens_details
        has_cost = isinstance(cost, int | float) and not isinstance(cost, bool) and 0.0 <= cost < math.inf
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=(details.cached_tokens if details else None) or self.prompt_cache_hit_tokens or 0,
            cost_usd=float(cost) if has_cost else None,
        )


class Chunk(Struct):
    """One event of a stream, or the whole response of a server that does not stream."""

    choices: list[Choice] | None = None
    """None in a chunk with only the usage."""
    counts: Any = msgspec.field(default=None, name="usage")
    error: Any = None

    @property
    def usage(self) -> Usage | None:
        """The usage; None if it is missing or malformed, because the reply is valid without it."""
        try:
            counts = msgspec.convert(self.counts, Counts | None)
        except msgspec.ValidationError:
            return None
        return counts.usage() if counts is not None else None

    @property
    def delta(self) -> Delta | None:
        """The part of the reply in this chunk; None if it has none."""
        return (self.choices[0].delta or self.choices[0].message) if self.choices else None


class ModelCard(Struct):
    id: str


class ModelList(Struct):
    data: list[ModelCard] = []
