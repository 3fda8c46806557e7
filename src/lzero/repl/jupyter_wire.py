"""What a plain Jupyter kernel says, on the host's side: its messages checked, typed and bounded, its outputs capped.

https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

import re
from collections import deque
from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from lzero.errors import ProtocolError
from lzero.types import Display, Error, Output, Result, Stream

MAX_PART = 16 * 1024 * 1024
"""Bytes of one part of a message; a kernel that sends more is cut off, and connects again."""
WAITING = 32
"""Messages of a channel that the host keeps before they are read; a kernel drops further outputs."""
CELL_CHARS = 64_000
CELL_OUTPUTS = 100
ALL_CHARS = 4 * CELL_CHARS
LOST = "… [outputs left out: too many or too large to be taken] …\n"
_DELIMITER = b"<IDS|MSG>"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_T = TypeVar("_T")


class Message(Struct, frozen=True, kw_only=True):
    """`parent` is the id of the request that it answers; `content` is JSON that nobody has decoded yet."""

    kind: str
    parent: str
    content: str

    def read(self, kind: type[_T]) -> _T:
        """Raises ProtocolError."""
        return _decoded(self.content, kind)


class _Header(Struct, frozen=True):
    msg_id: str = ""
    msg_type: str = ""


class Text(Struct, frozen=True):
    """Content of `stream`."""

    name: Literal["stdout", "stderr"]
    text: str


class Bundle(Struct, frozen=True):
    """Content of `execute_result` and `display_data`."""

    data: dict[str, Any]

    def texts(self) -> dict[str, str]:
        """Of every MIME type, only the plain text: it is what a policy can read."""
        return {"text/plain": clip(str(self.data.get("text/plain", "")), CELL_CHARS // 2)}


class Problem(Struct, frozen=True):
    """Content of `error`."""

    ename: str = ""
    evalue: str = ""
    traceback: tuple[str, ...] = ()


class State(Struct, frozen=True):
    """Content of `status`."""

    execution_state: str


class Answer(Struct, frozen=True):
    """Content of `execute_reply`, and of any other."""

    status: Literal["ok", "error", "aborted"] = "ok"


class Prompt(Struct, frozen=True):
    """Content of `input_request`."""

    prompt: str = ""


def parse(parts: Sequence[bytes], sign: Callable[[list[bytes]], bytes]) -> Message:
    """A message as it came over a channel: identities, delimiter, signature, header, parent, metadata, content, buffers.
    Raises ProtocolError for anything else."""
    try:
        start = list(parts).index(_DELIMITER) + 1
    except ValueError:
        raise ProtocolError("a message without its delimiter") from None
    signature, *signed = parts[start : start + 5]
    if len(signed) != 4 or not compare_digest(signature, sign(signed)):
        raise ProtocolError("a message that is cut short, or not signed by its kernel")
    header, parent = (_decoded(part.decode("utf-8", "replace"), _Header) for part in signed[:2])
    return Message(kind=header.msg_type, parent=parent.msg_id, content=signed[3].decode("utf-8", "replace"))


def _decoded(text: str, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"not a {kind.__name__} of a kernel: {str(error)[:200]}") from None


def is_idle(message: Message) -> bool:
    """Whether the kernel says that it is done with the request, and with all that it publishes for it."""
    return message.kind == "status" and message.read(State).execution_state == "idle"


class Outputs:
    """The outputs of a cell as they come in: streams merged, bounded in number and size, whatever the kernel sends."""

    def __init__(self) -> None:
        self._head: list[Output | _Clipped] = []
        self._tail: deque[Output | _Clipped] = deque()
        self._left_out = 0

    def add(self, message: Message) -> None:
        """Raises ProtocolError. What is no output is ignored."""
        match message.kind:
            case "stream":
                text = message.read(Text)
                self._stream(text.name).add(text.text)
            case "execute_result":
                self._append(Result(data=message.read(Bundle).texts()))
            case "display_data":
                self._append(Display(data=message.read(Bundle).texts()))
            case "error":
                self._append(_error(message.read(Problem)))

    def lost(self) -> None:
        """Some never arrived."""
        self._stream("stderr").add(LOST)

    def all(self) -> tuple[Output, ...]:
        kept = [*self._head, *self._note(), *self._tail]
        outputs = [one.stream() if isinstance(one, _Clipped) else one for one in kept]
        if sum(_num_chars(output) for output in outputs) > ALL_CHARS:
            outputs = [_cut(output, ALL_CHARS // len(outputs)) for output in outputs]
        return tuple(outputs)

    def _note(self) -> list[Output]:
        return [Stream(name="stderr", text=f"… [{self._left_out} outputs left out] …\n")] if self._left_out else []

    def _stream(self, name: Literal["stdout", "stderr"]) -> "_Clipped":
        last = self._tail[-1] if self._tail else self._head[-1] if self._head else None
        if isinstance(last, _Clipped) and last.name == name:
            return last
        stream = _Clipped(name)
        self._append(stream)
        return stream

    def _append(self, output: "Output | _Clipped") -> None:
        if len(self._head) < CELL_OUTPUTS // 2:
            self._head.append(output)
            return
        self._tail.append(output)
        if len(self._tail) > CELL_OUTPUTS // 2:
            self._tail.popleft()
            self._left_out += 1


class _Clipped:
    """Text of a stream that keeps its head and its tail, and says how much is missing between them."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self.name = name
        self._head = ""
        self._tail = ""
        self._left_out = 0

    def add(self, text: str) -> None:
        half = CELL_CHARS // 2
        room = half - len(self._head)
        self._head += text[:room]
        self._tail += text[room:]
        if len(self._tail) > 2 * half:
            self._shrink()

    def stream(self) -> Stream:
        self._shrink()
        note = _missing(self._left_out) if self._left_out else ""
        return Stream(name=self.name, text=self._head + note + self._tail)

    def _shrink(self) -> None:
        kept = self._tail[-(CELL_CHARS // 2) :]
        self._left_out += len(self._tail) - len(kept)
        self._tail = kept


def clip(text: str, limit: int) -> str:
    """The first and last halves of a text that is longer than `limit` characters."""
    half = limit // 2
    return text if len(text) <= limit else text[:half] + _missing(len(text) - 2 * half) + text[-half:]


def _missing(count: int) -> str:
    return f"\n… [{count} characters left out] …\n"


def _error(problem: Problem) -> Error:
    text = clip(_ANSI.sub("", "\n".join(problem.traceback)), CELL_CHARS // 2)
    return Error(ename=clip(problem.ename, 200), evalue=clip(problem.evalue, 2000), traceback=tuple(text.split("\n")))


def _num_chars(output: Output) -> int:
    match output:
        case Stream():
            return len(output.text)
        case Error():
            return sum(len(line) + 1 for line in output.traceback)
        case _:
            return sum(map(len, output.data.values()))


def _cut(output: Output, limit: int) -> Output:
    match output:
        case Stream():
            return Stream(name=output.name, text=clip(output.text, limit))
        case Error():
            lines = tuple(clip("\n".join(output.traceback), limit).split("\n"))
            return Error(ename=output.ename, evalue=output.evalue, traceback=lines)
        case _:
            return type(output)(data={mime: clip(text, limit) for mime, text in output.data.items()})
