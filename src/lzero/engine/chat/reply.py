"""Assemble one streamed reply: pass on its pieces, gather its thought, text and usage, and interpret its end.

Its text ends with its first stop string, which is kept, whether the server removes it or goes on after it.
"""

import re
from collections.abc import Iterator, Sequence

from msgspec import UNSET

from lzero.engine.chat.wire import Chunk
from lzero.protocols import OnText
from lzero.text import unbroken
from lzero.types import StopReason, Usage


class StopCut:
    """Takes a text in pieces, and keeps it up to the end of the stop string that ends first. The division into pieces does not matter."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = tuple(string for string in stop if string)
        self.stopped = False
        """Whether a stop string has ended the text."""
        self._kept: list[str] = []
        self._tail = ""
        """The end of the text, where a stop string may have begun."""
        self._tail_chars = max(map(len, self.stop), default=1) - 1

    @property
    def text(self) -> str:
        return "".join(self._kept)

    def feed(self, piece: str) -> str:
        """Return the part of `piece` that belongs to the reply."""
        if self.stopped or not piece:
            return ""
        window = self._tail + piece
        ends = [window.index(string) + len(string) for string in self.stop if string in window]
        if ends:
            self.stopped = True
            piece = piece[: min(ends) - len(self._tail)]
        self._kept.append(piece)
        self._tail = window[max(len(window) - self._tail_chars, 0) :]
        return piece


class Telling:
    """Passes pieces to the listener, and tells it when they become void."""

    def __init__(self, on_text: OnText | None) -> None:
        self._on_text = on_text
        self._told = False

    def tell(self, kind: str, piece: str) -> None:
        if piece and self._on_text is not None:
            self._told = True
            self._on_text(kind, piece)

    def restart(self) -> None:
        if self._told and self._on_text is not None:
            self._told = False
            self._on_text("restart", "")


class Gathering:
    """One reply, assembled from its chunks."""

    def __init__(self, stop: Sequence[str], telling: Telling) -> None:
        self._cut = StopCut(stop)
        self._thoughts: list[str] = []
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.has_tool_calls = False
        self.begun = False
        """Whether a part of the reply has arrived."""
        self.overrun = False
        """Whether text came after the stop string, because the server does not stop."""
        self._telling = telling
        self._told_stop: object = UNSET

    @property
    def text(self) -> str:
        return self._cut.text

    @property
    def reasoning(self) -> str:
        return "".join(self._thoughts)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._cut.stopped

    @property
    def whole(self) -> bool:
        """Whether the reply is complete; only its usage may still come."""
        return self.stopped or self.finish_reason not in (None, "error")

    def add(self, chunk: Chunk) -> None:
        self.usage = chunk.usage or self.usage
        if not chunk.choices:
            return
        choice, delta = chunk.choices[0], chunk.delta
        if delta is not None:
            thought, text = unbroken(delta.thought), unbroken(delta.text)
            self.begun = self.begun or bool(thought or text)
            self.has_tool_calls = self.has_tool_calls or bool(delta.tool_calls)
            if self.stopped:
                self.overrun = bool(thought or text)
            else:
                self._thoughts.append(thought)
                self._telling.tell("reasoning", thought)
                kept = self._cut.feed(text)
                self._telling.tell("text", kept)
                self.overrun = len(kept) < len(text)
        if choice.finish_reason:  # some say "" until there is one
            self.finish_reason = choice.finish_reason
            self._told_stop = choice.told_stop

    def end(self) -> StopReason:
        """Return why the reply ended. A stop string that the server removed is put back."""
        if not self.stopped and self.finish_reason == "stop":
            stop, text = self._cut.stop, self.text
            if self._told_stop is UNSET:
                taken = cut_off_stop(text, stop)
            else:
                taken = self._told_stop if isinstance(self._told_stop, str) and self._told_stop in stop else ""
            if text or not self.reasoning:  # else it was the thought that the stop string ended
                self._telling.tell("text", self._cut.feed(taken))
        if self.stopped:
            return "stop"
        return "length" if self.finish_reason in ("length", "content_filter") else "eos"


def cut_off_stop(text: str, stop: Sequence[str]) -> str:
    """Guess the stop string that a server may have removed from the end of `text`: the one that closes a tag left open.

    Return "" if there is none, or more than one.
    """
    said = "".join(_outside_thoughts(text))
    closing = [string for string in stop if re.fullmatch(r"</\w+>", string) and f"<{string[2:]}" in said]
    return closing[0] if len(closing) == 1 else ""


def _outside_thoughts(text: str) -> Iterator[str]:
    """Yield the text outside of <think> and </think>, in linear time, because a model may repeat a tag forever."""
    start = 0
    while (begin := text.find("<think>", start)) >= 0 and (end := text.find("</think>", begin)) >= 0:
        yield text[start:begin]
        start = end + len("</think>")
    yield text[start:]
