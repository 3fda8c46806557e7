"""End a reply in words with its first stop string, which is kept."""

import re
from collections.abc import Iterator, Sequence


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
