"""Interpret a server's error: a refused option, a conversation that is too long, a transient failure, or a permanent one."""

import re
from collections.abc import Mapping

from lzero.text import one_line

OPTIONS = ("stream_options", "stop", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed")
"""Options of a request that a server may refuse, and that a reply does not need."""
MAX_WORDS = 300
_NOT_TAKEN = re.compile(
    r"(un|not |n't )support|unrecogni[sz]ed|unknown|unexpected|extra (input|field)|not (permitted|allowed|implemented|available)"
    r"|deprecated|cannot both",
    re.IGNORECASE,
)
_OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size|(context|prompt|input)[\w' ]{0,20} (is )?too (long|large)|maximum context|too many tokens"
    r"|context (length|window|size)|(input|prompt) token count|maximum number of (input )?tokens",
    re.IGNORECASE,
)


_FILTERED = re.compile(
    r"content[ _]?(filter|policy|management)|prohibited_content|moderation|data_?inspection|invalid_prompt|inappropriate content|flagged",
    re.IGNORECASE,
)
"""Codes and words of content filters: Azure, OpenAI, Gemini, OpenRouter, DashScope."""


class TryAgain(Exception):
    """A failure that may be transient. `after_s`: seconds after which the server allows a retry."""

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class OptionRefused(Exception):
    """The server does not accept an option of the request."""

    def __init__(self, option: str, words: str) -> None:
        super().__init__(words)
        self.option = option


def words_of(body: object, *, secret: str = "") -> str:
    """Return a server's error message on one line, without the `secret`, in whatever shape it comes; "" for an HTML page or nothing."""
    for _ in range(6):
        match body:
            case {"error": inner} | {"message": inner} | {"detail": inner}:
                body = inner
            case {"loc": [*_, place], "msg": message}:  # pydantic's, behind FastAPI
                body = f"{place}: {message}"
            case [inner, *_]:
                body = inner
    if not isinstance(body, str) or body.lstrip().startswith("<"):
        return ""
    body = body.replace(secret, "***") if secret else body  # before it is cut, which could leave a part
    line = one_line(body[: 4 * MAX_WORDS])
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"


def refused_option(sent: Mapping[str, object], words: str, *, code: str | None, param: str | None) -> str | None:
    """Return the option of the request `sent` that a server does not accept at all; None if it reports something else.

    An option with a wrong value is not such an option.
    """
    if not _NOT_TAKEN.search(f"{code} {words}"):
        return None
    if param is not None:
        return param if param in OPTIONS and param in sent else None
    places = {
        found.start(): option
        for option in OPTIONS
        if option in sent and (found := re.search(rf"\b{option}\b", words)) is not None
    }
    if not places:
        return None
    # The one refused is named before those that are taken; of two that exclude each other the second is left out.
    return places[max(places) if "cannot both" in words else min(places)]


def is_overflow(words: str, *, code: str | None, status: int | None) -> bool:
    """Return whether a server reports that the conversation and the requested reply exceed the model's context."""
    return status == 413 or _OVERFLOW.search(f"{code} {words}") is not None


def is_filtered(words: str, *, code: str | None) -> bool:
    """Return whether a server reports that its content filter refuses the conversation."""
    return _FILTERED.search(f"{code} {words}") is not None


def may_pass(status: int, headers: Mapping[str, str], *, code: str | None) -> bool:
    """Return whether a failure may be transient: by the server's own statement, else by its status."""
    if code == "insufficient_quota":
        return False
    told = headers.get("x-should-retry")
    return told == "true" if told in ("true", "false") else status in (408, 409, 429) or status >= 500
