"""Check, type and bound the messages of a plain Jupyter kernel, and cap its outputs, on the host's side.

https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

import importlib
import json
import re
from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from lzero.errors import ProtocolError
from lzero.repl.wire import decoded
from lzero.types import Output

MAX_PART = 16 * 1024 * 1024
"""The most bytes of one part of a message. A kernel that sends more is cut off, and the host connects again."""
WAITING = 32
"""The most unread messages of a channel that the host keeps; the kernel drops further outputs."""
LOST = "… [outputs left out: too many or too large to be taken] …\n"
_DELIMITER = b"<IDS|MSG>"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_T = TypeVar("_T")
# Modules for the jail import nothing of lzero, so the host can import them too.
_capture = importlib.import_module("lzero.repl.inside.capture")


class Message(Struct, frozen=True, kw_only=True):
    """A message of a kernel. `parent`: id of the request that it answers. `content`: JSON, not decoded yet."""

    kind: str
    parent: str
    content: str

    def read(self, kind: type[_T]) -> _T:
        """Decode the content. Raises ProtocolError."""
        return decoded(msgspec.json.Decoder(kind), self.content.encode(), f"a {kind.__name__} of a kernel")


class _Header(Struct, frozen=True):
    msg_id: str = ""
    msg_type: str = ""


_header = msgspec.json.Decoder(_Header)


class Text(Struct, frozen=True):
    """Content of `stream`."""

    name: Literal["stdout", "stderr"]
    text: str


class Bundle(Struct, frozen=True):
    """Content of `execute_result`, `display_data` and `update_display_data`."""

    data: dict[str, Any]
    transient: dict[str, Any] = {}

    def texts(self) -> dict[str, str]:
        """Return the representations that may also leave a jail, by MIME type, as text. application/json is serialised."""
        return {mime: _as_text(self.data[mime]) for mime in _capture.TYPES if self.data.get(mime) is not None}


class Clear(Struct, frozen=True):
    """Content of `clear_output`."""

    wait: bool = False


class Problem(Struct, frozen=True):
    """Content of `error`."""

    ename: str = ""
    evalue: str = ""
    traceback: tuple[str, ...] = ()


class State(Struct, frozen=True):
    """Content of `status`."""

    execution_state: str


class ReplyStatus(Struct, frozen=True):
    """Content of `execute_reply`, and of any other reply."""

    status: Literal["ok", "error", "aborted"] = "ok"


class Prompt(Struct, frozen=True):
    """Content of `input_request`."""

    prompt: str = ""


def parse(parts: Sequence[bytes], sign: Callable[[list[bytes]], bytes]) -> Message:
    """Parse the parts of a message: identities, delimiter, signature, header, parent, metadata, content, buffers.

    `sign` computes the signature. Raises ProtocolError if the message is malformed, or not signed by its kernel.
    """
    try:
        start = list(parts).index(_DELIMITER) + 1
    except ValueError:
        raise ProtocolError("a message without its delimiter") from None
    signature, *signed = parts[start : start + 5]
    if len(signed) != 4 or not compare_digest(signature, sign(signed)):
        raise ProtocolError("a message that is cut short, or not signed by its kernel")
    texts = [part.decode("utf-8", "replace") for part in signed]
    header, parent = (decoded(_header, text.encode(), "a header of a kernel") for text in texts[:2])
    return Message(kind=header.msg_type, parent=parent.msg_id, content=texts[3])


def is_idle(message: Message) -> bool:
    """Return whether the kernel reports that the request, and all its publications, are done."""
    return message.kind == "status" and message.read(State).execution_state == "idle"


class Outputs:
    """The outputs of one cell, collected as they arrive. The code of jailed sessions bounds them."""

    def __init__(self, limit: int) -> None:
        """`limit`: characters of all outputs together."""
        self._kept = _capture.Outputs({}, limit)

    def add(self, message: Message) -> None:
        """Add the output in a message; ignore any other message. Raises ProtocolError."""
        match message.kind:
            case "stream":
                text = message.read(Text)
                self._kept.write(text.name, text.text)
            case "execute_result":
                self._show("execute_result", message.read(Bundle), update=False)
            case "display_data" | "update_display_data":
                self._show("display_data", message.read(Bundle), update=message.kind == "update_display_data")
            case "clear_output":
                self._kept.clear(wait=message.read(Clear).wait)
            case "error":
                problem = message.read(Problem)
                lines = [_ANSI.sub("", line) for line in problem.traceback]
                self._kept.error(problem.ename, problem.evalue, lines)

    def lost(self) -> None:
        """Note that some outputs never arrived."""
        self._kept.write("stderr", LOST)

    def take(self) -> tuple[Output, ...]:
        return msgspec.convert(self._kept.take(), tuple[Output, ...])

    def _show(self, kind: str, bundle: Bundle, *, update: bool) -> None:
        texts = bundle.texts()
        if texts:
            self._kept.show(kind, texts, name=str(bundle.transient.get("display_id", "")), update=update)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
