"""What a cell writes and shows, in order, with its head and its tail kept when it is too much."""

import io
import os
import resource
from typing import Any

CELL_OUTPUTS = 100
CELL_CHARS = 512_000
"""What the outputs of a cell hold together, unless the host says otherwise: half of it text, half of it all that is not."""
TYPES = (
    "text/plain",
    "text/html",
    "text/markdown",
    "text/latex",
    "image/svg+xml",
    "application/json",
    "image/png",
    "image/jpeg",
)
"""What of a representation leaves the session."""
_TEXT = ("text/plain", "text/markdown", "text/latex")
"""Types that still say something when their middle is missing."""
_TRACEBACK_LINES = 200


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


def clip(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    clipped = Clipped(limit)
    clipped.add(text)
    return clipped.text()


class Outputs:
    """The outputs of the cell that runs: streams merged, everything in the order it came, bounded in number and size."""

    def __init__(self, descriptors: dict[str, int], limit: int = CELL_CHARS) -> None:
        """`descriptors`: files that hold what is written to descriptors 1 and 2 past Python, by name. `limit`: characters of
        all outputs of a cell together."""
        self._files = {name: (descriptor, 0) for name, descriptor in descriptors.items()}
        self._items: list[dict[str, Any] | tuple[str, Clipped]] = []
        self._displays: dict[str, dict[str, Any]] = {}
        self._left_out = 0
        self._cleared = False
        self.limit = limit

    def write(self, name: str, text: str) -> None:
        self.drain()
        self._write(name, text)

    def show(self, kind: str, data: dict[str, str], *, name: str = "", update: bool = False) -> None:
        """`name`: under which the display can be changed until the cell ends; `update` changes it, or shows it anew."""
        self.drain()
        self._make_way()
        shown = self._displays.get(name) if update else None
        if shown is not None:
            shown["data"] = {}  # what it held makes room
            shown["data"] = self._fit(data)
            return
        item = {"output_type": kind, "data": self._fit(data)}
        if name:
            self._displays[name] = item
        self._append(item)

    def error(self, name: str, value: str, traceback: list[str]) -> None:
        self.drain()
        self._make_way()
        lines = clip("\n".join(traceback), self.limit // 16).split("\n")
        if len(lines) > _TRACEBACK_LINES:
            half = _TRACEBACK_LINES // 2
            lines = [*lines[:half], f"… [{len(lines) - 2 * half} lines left out] …", *lines[-half:]]
        self._append(
            {"output_type": "error", "ename": clip(name, 200), "evalue": clip(value, 2000), "traceback": lines}
        )

    def clear(self, *, wait: bool) -> None:
        """Drop what the cell has put out so far; `wait`: when something new comes."""
        self.drain()
        self._cleared = True
        if not wait:
            self._make_way()

    def drain(self) -> None:
        """Take what was written past Python (by a subprocess, by C code) since the last time."""
        for name, (descriptor, seen) in self._files.items():
            size = os.fstat(descriptor).st_size
            if size > seen:
                at_once = self.limit // 4  # twice what a stream keeps; UTF-8 needs at most 4 bytes a character
                head = os.pread(descriptor, min(size - seen, at_once), seen)
                tail_start = max(seen + len(head), size - at_once)
                self._write(name, head.decode("utf-8", "replace"))
                if tail_start > seen + len(head):
                    self._stream(name).left_out(tail_start - seen - len(head))
                self._write(name, os.pread(descriptor, size - tail_start, tail_start).decode("utf-8", "replace"))
                self._files[name] = (descriptor, size)

    def take(self) -> list[dict[str, Any]]:
        """The outputs so far, and start afresh."""
        self.drain()
        self._empty_files()
        taken = [
            {"output_type": "stream", "name": item[0], "text": item[1].text()} if isinstance(item, tuple) else item
            for item in self._items
        ]
        if self._left_out:
            note = f"… [{self._left_out} outputs left out] …\n"
            taken.insert(CELL_OUTPUTS // 2, {"output_type": "stream", "name": "stderr", "text": note})
        self._items, self._displays, self._left_out, self._cleared = [], {}, 0, False
        if sum(_num_chars(item) for item in taken) > self.limit // 2:
            taken = [_cut(item, self.limit // 2 // len(taken)) for item in taken]
        return taken

    def _empty_files(self) -> None:
        for name, (descriptor, seen) in self._files.items():
            if not seen:
                continue
            if seen >= resource.getrlimit(resource.RLIMIT_FSIZE)[0] >= 0:
                self._write("stderr", f"\n… [{name}: nothing is captured beyond its first {seen} bytes] …\n")
            os.ftruncate(descriptor, 0)
            self._files[name] = (descriptor, 0)

    def _make_way(self) -> None:
        """For something new: what was cleared until now goes."""
        if self._cleared:
            self._items, self._displays, self._left_out, self._cleared = [], {}, 0, False

    def _fit(self, data: dict[str, str]) -> dict[str, str]:
        """Text in its share, its middle cut out; what is not text as a whole, or a note in the text that it was left out."""
        room = self.limit // 2 - sum(_num_rich_chars(item) for item in self._items)
        fitting, notes = {}, []
        for mime, text in data.items():
            if mime in _TEXT:
                fitting[mime] = clip(text, self.limit // 16)
            elif len(text) <= room:
                fitting[mime] = text
                room -= len(text)
            else:
                notes.append(f"… [{mime} of {len(text)} characters left out] …")
        if notes:
            fitting["text/plain"] = "\n".join(filter(None, (fitting.get("text/plain"), *notes)))
        return fitting

    def _write(self, name: str, text: str) -> None:
        if text:
            self._make_way()
            self._stream(name).add(text)

    def _stream(self, name: str) -> Clipped:
        last = self._items[-1] if self._items else None
        if isinstance(last, tuple) and last[0] == name:
            return last[1]
        stream = Clipped(self.limit // 8)
        self._append((name, stream))
        return stream

    def _append(self, item: dict[str, Any] | tuple[str, Clipped]) -> None:
        self._items.append(item)
        if len(self._items) > CELL_OUTPUTS:
            gone = self._items.pop(CELL_OUTPUTS // 2)
            self._displays = {name: shown for name, shown in self._displays.items() if shown is not gone}
            self._left_out += 1


def _num_chars(item: dict[str, Any]) -> int:
    """Of text."""
    data = item.get("data", {})
    texts = (item.get("text", ""), *(data[mime] for mime in _TEXT if mime in data), *item.get("traceback", ()))
    return sum(len(text) + 1 for text in texts)


def _num_rich_chars(item: dict[str, Any] | tuple[str, Clipped]) -> int:
    """Of all that is not text."""
    if isinstance(item, tuple):
        return 0
    return sum(len(text) for mime, text in item.get("data", {}).items() if mime not in _TEXT)


def _cut(item: dict[str, Any], limit: int) -> dict[str, Any]:
    match item["output_type"]:
        case "stream":
            return item | {"text": clip(item["text"], limit)}
        case "error":
            return item | {"traceback": clip("\n".join(item["traceback"]), limit).split("\n")}
        case _:
            share = limit // len(_TEXT)
            data = {mime: clip(text, share) if mime in _TEXT else text for mime, text in item["data"].items()}
            return item | {"data": data}


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
