"""What a cell writes and shows, in order, with its head and its tail kept when it is too much."""

import io
import os
from typing import Any

CELL_CHARS = 64_000
CELL_OUTPUTS = 100
ALL_CHARS = 4 * CELL_CHARS
"""What all outputs of a cell may hold together; beyond it each is cut to its share. A frame holds it however it is encoded."""
_READ_BYTES = 4 * CELL_CHARS  # of what was written past Python; UTF-8 needs at most 4 bytes a character


class Clipped:
    """Text that keeps its first and last `limit // 2` characters, and says how many are missing between them."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = ""
        self._tail: list[str] = []
        self._tail_chars = 0
        self._left_out = 0

    def add(self, text: str) -> None:
        room = self._half - len(self._head)
        if room > 0:
            self._head += text[:room]
            text = text[room:]
        if not text:
            return
        self._tail.append(text)
        self._tail_chars += len(text)
        if self._tail_chars > 2 * self._half:
            self._shrink()

    def left_out(self, count: int) -> None:
        """Count characters that were never here."""
        self._left_out += count

    def text(self) -> str:
        self._shrink()
        tail = "".join(self._tail)
        if not self._left_out:
            return self._head + tail
        return f"{self._head}\n… [{self._left_out} characters left out] …\n{tail}"

    def _shrink(self) -> None:
        tail = "".join(self._tail)
        kept = tail[-self._half :]
        self._left_out += len(tail) - len(kept)
        self._tail, self._tail_chars = [kept], len(kept)


def clip(text: str, limit: int = CELL_CHARS) -> str:
    if len(text) <= limit:
        return text
    clipped = Clipped(limit)
    clipped.add(text)
    return clipped.text()


class Outputs:
    """The outputs of the cell that runs: streams merged, everything in the order it came, bounded in number and size."""

    def __init__(self, descriptors: dict[str, int]) -> None:
        """`descriptors`: files that hold what is written to descriptors 1 and 2 past Python, by name."""
        self._files = {name: (descriptor, 0) for name, descriptor in descriptors.items()}
        self._items: list[dict[str, Any] | tuple[str, Clipped]] = []
        self._left_out = 0

    def write(self, name: str, text: str) -> None:
        self.drain()
        self._write(name, text)

    def show(self, kind: str, data: dict[str, str]) -> None:
        self.drain()
        half = CELL_CHARS // 2
        self._append({"output_type": kind, "data": {mime: clip(text, half) for mime, text in data.items()}})

    def error(self, name: str, value: str, traceback: list[str]) -> None:
        self.drain()
        lines = clip("\n".join(traceback), CELL_CHARS // 2).split("\n")
        self._append(
            {"output_type": "error", "ename": clip(name, 200), "evalue": clip(value, 2000), "traceback": lines}
        )

    def drain(self) -> None:
        """Take what was written past Python (by a subprocess, by C code) since the last time."""
        for name, (descriptor, seen) in self._files.items():
            size = os.fstat(descriptor).st_size
            if size > seen:
                head = os.pread(descriptor, min(size - seen, _READ_BYTES // 2), seen)
                tail_start = max(seen + len(head), size - _READ_BYTES // 2)
                self._write(name, head.decode("utf-8", "replace"))
                if tail_start > seen + len(head):
                    self._stream(name).left_out(tail_start - seen - len(head))
                self._write(name, os.pread(descriptor, size - tail_start, tail_start).decode("utf-8", "replace"))
                self._files[name] = (descriptor, size)

    def take(self) -> list[dict[str, Any]]:
        """The outputs so far, and start afresh."""
        self.drain()
        for name, (descriptor, seen) in self._files.items():
            if seen:
                os.ftruncate(descriptor, 0)
                self._files[name] = (descriptor, 0)
        taken = [
            {"output_type": "stream", "name": item[0], "text": item[1].text()} if isinstance(item, tuple) else item
            for item in self._items
        ]
        if self._left_out:
            note = f"… [{self._left_out} outputs left out] …\n"
            taken.insert(CELL_OUTPUTS // 2, {"output_type": "stream", "name": "stderr", "text": note})
        self._items, self._left_out = [], 0
        if sum(_num_chars(item) for item in taken) > ALL_CHARS:
            taken = [_cut(item, ALL_CHARS // len(taken)) for item in taken]
        return taken

    def _write(self, name: str, text: str) -> None:
        if text:
            self._stream(name).add(text)

    def _stream(self, name: str) -> Clipped:
        last = self._items[-1] if self._items else None
        if isinstance(last, tuple) and last[0] == name:
            return last[1]
        stream = Clipped(CELL_CHARS)
        self._append((name, stream))
        return stream

    def _append(self, item: dict[str, Any] | tuple[str, Clipped]) -> None:
        self._items.append(item)
        if len(self._items) > CELL_OUTPUTS:
            del self._items[CELL_OUTPUTS // 2]
            self._left_out += 1


def _num_chars(item: dict[str, Any]) -> int:
    texts = (item.get("text", ""), *item.get("data", {}).values(), *item.get("traceback", ()))
    return sum(len(text) + 1 for text in texts)


def _cut(item: dict[str, Any], limit: int) -> dict[str, Any]:
    match item["output_type"]:
        case "stream":
            return item | {"text": clip(item["text"], limit)}
        case "error":
            return item | {"traceback": clip("\n".join(item["traceback"]), limit).split("\n")}
        case _:
            return item | {"data": {mime: clip(text, limit) for mime, text in item["data"].items()}}


class Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of a cell."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, name: str, outputs: Outputs, descriptor: int) -> None:
        self._name = name
        self._outputs = outputs
        self._descriptor = descriptor

    @property
    def name(self) -> str:
        return f"<{self._name}>"

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._outputs.write(self._name, text)
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._descriptor
