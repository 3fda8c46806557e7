"""Capture what a cell writes and displays, in order; if it is too much, keep the head and the tail."""

import ctypes
import errno
import json
import os
import resource
import threading
from codecs import getincrementaldecoder
from dataclasses import dataclass, field
from typing import Any

CELL_OUTPUTS = 100
CELL_CHARS = 2_000_000
"""Default limit of all outputs of a cell, in characters: an eighth for text, the rest for images, tables and JSON."""
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
"""MIME types of representations that leave the session."""
_TEXT = ("text/plain", "text/markdown", "text/latex")
"""Types that stay useful without their middle."""
_TRACEBACK_LINES = 200
DESCRIPTORS = {"stdout": 1, "stderr": 2}
_READ_BYTES = 1 << 18
_LINE_CHARS = 1 << 13
"""Longest line of a forked child that is written in one piece."""
_PUNCH_HOLE = 3
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE; the first requires the second."""
_QUOTE_COST = 8
"""The host takes fewer quotation marks than bytes: wire.MAX_QUOTES."""

_libc = ctypes.CDLL(None)


class Clipped:
    """Text that keeps its first and last `limit // 2` characters, and counts those between them."""

    def __init__(self, limit: int, text: str = "") -> None:
        self._half = limit // 2
        self._head = ""
        self._tail: list[str] = []
        self._tail_chars = 0
        self._left_out = 0
        self.add(text)

    @property
    def size(self) -> int:
        """Characters that were added, whether they were kept or not."""
        return len(self._head) + self._tail_chars + self._left_out

    @property
    def kept(self) -> int:
        self._shrink()
        return len(self._head) + self._tail_chars

    def add(self, text: str) -> None:
        room = self._half - len(self._head)
        if room > 0 and not self._left_out:
            self._head += text[:room]
            text = text[room:]
        if not text:
            return
        self._tail.append(text)
        self._tail_chars += len(text)
        if self._tail_chars > 2 * self._half:
            self._shrink()

    def narrow(self, limit: int) -> None:
        """Keep no more than `limit` characters from now on."""
        head, tail = self._ends()
        self._half = limit // 2
        if self.kept > limit:
            self._keep(head[: self._half], tail[max(0, len(tail) - self._half) :])

    def keep_lines(self, count: int) -> None:
        """Keep no more than the first and the last `count // 2` lines."""
        head, tail = self._ends()
        if self._left_out or head.count("\n") >= count:
            self._keep("\n".join(head.split("\n")[: count // 2]), "\n".join(tail.split("\n")[-(count // 2) :]))

    def text(self) -> str:
        head, tail = self._ends()
        return f"{head}\n… [{self._left_out} characters left out] …\n{tail}" if self._left_out else head

    def _ends(self) -> tuple[str, str]:
        """Return what is kept before and after the gap; if there is none, the whole text twice."""
        self._shrink()
        tail = "".join(self._tail)
        return (self._head, tail) if self._left_out else (self._head + tail, self._head + tail)

    def _shrink(self) -> None:
        tail = "".join(self._tail)
        kept = tail[max(0, len(tail) - self._half) :]
        self._left_out += len(tail) - len(kept)
        self._tail, self._tail_chars = [kept], len(kept)

    def _keep(self, head: str, tail: str) -> None:
        self._left_out = self.size - len(head) - len(tail)
        self._head, self._tail, self._tail_chars = head, [tail], len(tail)


def clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else Clipped(limit, text).text()


@dataclass
class _Output:
    """One output of a cell; the middle of a text part may be cut out."""

    kind: str
    parts: dict[str, "str | Clipped"]
    """The text of a stream, name, value and traceback of an error, representations by MIME type."""
    cost: int = 0
    """Bytes that the parts other than text take in a frame."""
    name: str = ""
    """Name of the stream; "" for other outputs."""

    @property
    def texts(self) -> list[Clipped]:
        return [part for part in self.parts.values() if isinstance(part, Clipped)]

    @property
    def size(self) -> int:
        """Number of characters of text before any cut, and 1 more for an output that is not a stream."""
        return sum(text.size for text in self.texts) + (self.kind != "stream")

    def plain(self) -> dict[str, Any]:
        """Return the output in nbformat's shape."""
        parts = {name: part.text() if isinstance(part, Clipped) else part for name, part in self.parts.items()}
        match self.kind:
            case "stream":
                return {"output_type": "stream", "name": self.name, **parts}
            case "error":
                return {"output_type": "error", **parts, "traceback": parts["traceback"].split("\n")}
            case _:
                return {"output_type": self.kind, "data": parts}


@dataclass
class _File:
    """File behind a descriptor: catches what subprocesses and C code write past Python."""

    descriptor: int
    start: int = 0
    """Offset at which the current cell's output begins."""
    seen: int = 0
    decoder: Any = field(default_factory=lambda: getincrementaldecoder("utf-8")("replace"))


class Outputs:
    """The outputs of the running cell: streams merged, everything in order of arrival, bounded in number and size.

    Threads may write at the same time. In a forked child, everything goes to the descriptors, where the session finds it.
    """

    def __init__(self, descriptors: dict[str, int], limit: int = CELL_CHARS) -> None:
        """`descriptors`: the files that capture what is written to descriptors 1 and 2 past Python, by name. `limit`: characters of all
        outputs of a cell together."""
        self._files = {name: _File(descriptor) for name, descriptor in descriptors.items()}
        self._items: list[_Output] = []
        self._displays: dict[str, _Output] = {}
        self._num_left_out = 0
        self._chars_left_out = 0
        self._cleared = False
        self._lock = threading.RLock()
        self._lines: dict[str, list[str]] | None = None
        """Stream → unfinished line, in a forked child; None in the session."""
        self.limit = limit

    def become_child(self) -> None:
        """Switch to the child's role, in a process that was forked from the session."""
        self._lines = {name: [] for name in DESCRIPTORS}

    def write(self, name: str, text: str) -> None:
        if self._lines is not None:
            self._pass_on(name, text)
            return
        with self._lock:
            self.drain()
            self._write(name, text)

    def show(self, kind: str, data: dict[str, str], *, name: str = "", update: bool = False) -> None:
        """Add a display. Until the cell ends, another call with `update` and the same `name` replaces it, or adds it if it is not there."""
        if self._lines is not None:
            self._pass_on("stdout", data.get("text/plain", " ".join(f"[{mime}]" for mime in data)) + "\n")
            return
        with self._lock:
            self.drain()
            self._make_way()
            shown = self._displays.get(name) if update else None
            if shown is not None:
                shown.parts, shown.cost = {}, 0  # its old content no longer counts
                shown.parts, shown.cost = self._fit(data)
                return
            item = _Output(kind, *self._fit(data))
            if name:
                self._displays[name] = item
            self._append(item)

    def error(self, name: str, value: str, traceback: list[str]) -> None:
        if self._lines is not None:
            if name != "SystemExit":  # how a child ends, which is not an error of the cell
                self._pass_on("stderr", "\n".join(traceback) + "\n")
            return
        lines = Clipped(self._text_limit // 8, "\n".join(traceback))
        lines.keep_lines(_TRACEBACK_LINES)
        with self._lock:
            self.drain()
            self._make_way()
            self._append(_Output("error", {"ename": clip(name, 200), "evalue": clip(value, 2000), "traceback": lines}))

    def clear(self, *, wait: bool) -> None:
        """Drop the cell's outputs so far; with `wait`, only when the next output comes."""
        if self._lines is not None:
            return
        with self._lock:
            self.drain()
            self._cleared = True
            if not wait:
                self._make_way()

    def flush(self) -> None:
        """Write the unfinished lines of a forked child."""
        for name in self._lines or ():
            self._flush(name)

    def drain(self) -> None:
        """Take what was written past Python (by a subprocess, by C code) since the last time. The caller holds the lock."""
        for name, file in self._files.items():
            size = os.fstat(file.descriptor).st_size
            while file.seen < size:
                chunk = os.pread(file.descriptor, min(size - file.seen, _READ_BYTES), file.seen)
                file.seen += len(chunk)
                self._write(name, file.decoder.decode(chunk))

    def take(self) -> list[dict[str, Any]]:
        """Return the outputs so far, and start anew."""
        with self._lock:
            self.drain()
            self._release_files()
            taken, num_left_out, chars_left_out = self._items, self._num_left_out, self._chars_left_out
            self._forget()
        if sum(text.kept + 1 for item in taken for text in item.texts) > self._text_limit:
            for item in taken:
                for text in item.texts:
                    text.narrow(self._text_limit // len(taken) // len(item.texts))
        outputs = [item.plain() for item in taken]
        if num_left_out:
            note = f"… [{num_left_out} outputs left out: {chars_left_out} characters] …\n"
            outputs.insert(CELL_OUTPUTS // 2, {"output_type": "stream", "name": "stderr", "text": note})
        return outputs

    def rewind(self) -> None:
        """Empty the files behind the descriptors, while no process writes to them."""
        with self._lock:
            self.drain()
            for file in self._files.values():
                os.ftruncate(file.descriptor, 0)
                file.start = file.seen = 0

    @property
    def _text_limit(self) -> int:
        return self.limit // 8

    def _release_files(self) -> None:
        """Free the memory of output that was read.

        A file keeps its length, because a child may be writing to it, until that reaches half of the length limit.
        """
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        for name, file in self._files.items():
            if file.seen == file.start:
                continue
            self._write(name, file.decoder.decode(b"", True))
            if file.seen >= limit >= 0:
                note = f"{name}: nothing is captured beyond its first {file.seen - file.start} bytes"
                self._write("stderr", f"\n… [{note}] …\n")
            if file.seen >= limit // 2 >= 0 or not _punch(file.descriptor, file.start, file.seen):
                os.ftruncate(file.descriptor, 0)
                file.seen = 0
            file.start = file.seen

    def _make_way(self) -> None:
        """Drop the outputs that `clear` marked, before a new one is added."""
        if self._cleared:
            self._forget()

    def _forget(self) -> None:
        self._items, self._displays, self._cleared = [], {}, False
        self._num_left_out = self._chars_left_out = 0

    def _fit(self, data: dict[str, str]) -> tuple[dict[str, str | Clipped], int]:
        """Fit an output into the limits: cut the middle out of text, and replace any other part that is too large by a note.

        Returns the parts, and the bytes that those other than text take.
        """
        room = self.limit - self._text_limit - sum(item.cost for item in self._items)
        fitting: dict[str, str | Clipped] = {}
        notes, cost = [], 0
        for mime, text in data.items():
            if mime in _TEXT:
                fitting[mime] = Clipped(self._text_limit // 8, text)
            elif cost + len(text) <= room and cost + (own := _cost(text)) <= room:
                fitting[mime] = text
                cost += own
            else:
                notes.append(f"… [{mime} of {len(text)} characters left out] …")
        if notes:
            text = "\n".join(filter(None, (data.get("text/plain"), *notes)))
            fitting["text/plain"] = Clipped(self._text_limit // 8, text)
        return fitting, cost

    def _write(self, name: str, text: str) -> None:
        if text:
            self._make_way()
            self._stream(name).add(text)

    def _stream(self, name: str) -> Clipped:
        last = self._items[-1] if self._items else None
        if last is not None and last.kind == "stream" and last.name == name:
            return last.texts[0]
        stream = Clipped(self._text_limit // 4)
        self._append(_Output("stream", {"text": stream}, name=name))
        return stream

    def _append(self, item: _Output) -> None:
        self._items.append(item)
        if len(self._items) > CELL_OUTPUTS:
            gone = self._items.pop(CELL_OUTPUTS // 2)
            self._displays = {name: shown for name, shown in self._displays.items() if shown is not gone}
            self._num_left_out += 1
            self._chars_left_out += gone.size

    def _pass_on(self, name: str, text: str) -> None:
        """Write whole lines, so that lines of several children do not mix."""
        assert self._lines is not None
        line = self._lines[name]
        line.append(text)
        if "\n" in text or sum(map(len, line)) > _LINE_CHARS:
            self._flush(name)

    def _flush(self, name: str) -> None:
        assert self._lines is not None
        pieces, self._lines[name] = self._lines[name], []
        rest = "".join(pieces).encode("utf-8", "replace")
        while rest:
            try:
                rest = rest[os.write(DESCRIPTORS[name], rest) :]
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
                return  # nothing is captured beyond this; the session adds a note


def _cost(text: str) -> int:
    """Return the bytes that a text takes in a frame, with a surcharge for quotation marks."""
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) + (_QUOTE_COST - 2) * text.count('"')


def _punch(descriptor: int, start: int, end: int) -> bool:
    """Free the memory of a part of a file, which then reads as zeros, with fallocate(2). Return whether that worked."""
    punched = _libc.fallocate(descriptor, _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(end - start))
    return bool(punched == 0)
