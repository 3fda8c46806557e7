"""A tokenizer's chat template, rendered in a process of its own: it is a program of whoever made the model.

The process is a fork of this one, with limits on its memory and time. So a template that loops, recurses or makes one huge value
ends that process, nothing else.
"""

import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import msgspec

from lzero.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OR_RAW = 'agent.template = "raw" marks turns without it'
RENDER_S = 5.0
"""Deadline of a chat template for a few short messages, in seconds."""
RENDER_BYTES = 512 << 20
"""Memory that it may take beyond what this process has."""
LONGEST = 1_000_000
"""Maximum characters that it may render for them."""


class _Outcome(msgspec.Struct, forbid_unknown_fields=True):
    """Answer of the process: a text, or an exception."""

    text: str = ""
    length: int = 0
    raised: tuple[str, ...] = ()
    """Names of the exception's class and of those that it derives from."""
    reason: str = ""


class ChatTemplate:
    """A tokenizer's chat template."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self._tokenizer = tokenizer

    def split(self, contents: Sequence[str], *, system: str | None = None, header: bool = True) -> list[str] | None:
        """Return the template's text before, between and after contents that alternate between user and assistant.

        Returns None if the template refuses them or does not show each of them once, in order. `header`: end with the header of the
        next reply. Raises ModelError for a template that fails or does not end.
        """
        messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        rest = self._rendered(messages, header)
        if rest is None:
            return None
        pieces = []
        for message in messages:
            if rest.count(message["content"]) != 1:
                return None
            piece, _, rest = rest.partition(message["content"])
            pieces.append(piece)
        return [*pieces, rest]

    def _rendered(self, messages: list[dict[str, str]], header: bool) -> str | None:
        """Return the text; None if the template calls raise_exception(…), its way to say that it does not take such messages."""

        def render() -> str:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=header))

        outcome = _apart(render)
        raised = set(outcome.raised)
        if "SecurityError" in raised:
            raise ModelError(f"the chat template does what Jinja's sandbox forbids: {outcome.reason}; {OR_RAW}")
        if raised & {"TemplateSyntaxError", "UndefinedError"}:
            raise ModelError(f"the chat template is broken: {outcome.reason}; {OR_RAW}")
        if "TemplateError" in raised:
            return None
        if raised:
            raise ModelError(f"the chat template fails: {outcome.raised[0]}: {outcome.reason}; {OR_RAW}")
        if outcome.length > LONGEST:
            raise ModelError(
                f"the chat template fails: {len(messages)} short messages become {outcome.length:,} characters; {OR_RAW}"
            )
        return outcome.text


def _apart(render: Callable[[], str]) -> _Outcome:
    """Return what `render` returns or raises in a fork of this process, within RENDER_S and RENDER_BYTES."""
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: the child takes no lock of theirs
        child = os.fork()
    if child == 0:
        _answer(render, writable)
    os.close(writable)
    try:
        answer = _read(readable, deadline=time.monotonic() + RENDER_S)
    finally:
        os.close(readable)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if answer is None:
        return _Outcome(raised=("TimeoutError",), reason=f"it is not done after {RENDER_S:g} s")
    try:
        return msgspec.json.decode(answer, type=_Outcome)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Outcome(raised=("RuntimeError",), reason="the process that renders it ended")


def _answer(render: Callable[[], str], writable: int) -> NoReturn:
    """Render, write the outcome, and end this process, whatever happens."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + RENDER_BYTES, used + RENDER_BYTES))
        try:
            text = render()
            outcome = _Outcome(text=text[:LONGEST], length=len(text))
        except BaseException as error:
            names = tuple(kind.__name__ for kind in type(error).__mro__)
            outcome = _Outcome(raised=names, reason=str(error).strip().partition("\n")[0][:LONGEST])
        left = memoryview(msgspec.json.encode(outcome))
        while left:
            left = left[os.write(writable, left) :]
    finally:
        os._exit(0)


def _read(readable: int, *, deadline: float) -> bytes | None:
    """Return all that is written to a pipe; None if it is still open at the deadline."""
    pieces: list[bytes] = []
    while select.select([readable], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(readable, 1 << 16)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
    return None
