"""Assemble one streamed reply: pass on its pieces, gather its thought, text and usage, and interpret its end."""

from collections.abc import Sequence

from msgspec import UNSET

from lzero.engine.chat.stops import StopCut, cut_off_stop
from lzero.engine.chat.wire import Chunk, Counts
from lzero.protocols import OnText
from lzero.types import StopReason


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
        self.counts: Counts | None = None
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
        self.counts = chunk.counts or self.counts
        if not chunk.choices:
            return
        choice, delta = chunk.choices[0], chunk.delta
        if delta is not None:
            thought, text = _without_surrogates(delta.thought), _without_surrogates(delta.text)
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
        return "length" if self.finish_reason == "length" else "eos"


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON can spell, but UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
