"""Render a tokenizer's chat template in a separate process, because it is a program by the model's author.

The process is a fork of this one, with limits on its memory and time. So a template that loops, recurses or makes a huge value ends only
that process.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError, UndefinedError

from lzero.apart import run_apart
from lzero.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OR_RAW = 'agent.template = "raw" marks turns without it'
RENDER_S = 5.0
"""Deadline of a chat template for a few short conversations, in seconds."""
RENDER_BYTES = 512 << 20
"""Bytes of memory that it may take in addition to what this process has."""
LONGEST = 1_000_000
"""The most characters that it may render for them."""


class Probe(msgspec.Struct, frozen=True):
    """A conversation of made-up contents, user and assistant in turn, for a template to mark."""

    contents: tuple[str, ...]
    system: str | None = None
    header: bool = True
    """Whether it ends with the header of the next reply."""

    @property
    def messages(self) -> list[dict[str, str]]:
        turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(self.contents)]
        return turns if self.system is None else [{"role": "system", "content": self.system}, *turns]


def split(tokenizer: "PreTrainedTokenizerFast", *probes: Probe) -> list[list[str] | None]:
    """Return the template's text before, between and after the contents of each probe, the system prompt included.

    None marks one that the template refuses, or whose contents it does not show once each, in order. Raises ModelError for a
    template that fails or does not end.
    """
    return [
        None if text is None else _around([message["content"] for message in probe.messages], text)
        for probe, text in zip(probes, _rendered(tokenizer, probes), strict=True)
    ]


def _around(contents: Sequence[str], text: str) -> list[str] | None:
    pieces = []
    for content in contents:
        if text.count(content) != 1:
            return None
        piece, _, text = text.partition(content)
        pieces.append(piece)
    return [*pieces, text]


def _rendered(tokenizer: "PreTrainedTokenizerFast", probes: Sequence[Probe]) -> list[str | None]:
    """Return the text of each probe, all rendered in one process; None if the template refuses it."""

    def render(probe: Probe) -> str | None:
        try:
            text = str(
                tokenizer.apply_chat_template(probe.messages, tokenize=False, add_generation_prompt=probe.header)
            )
        except (SecurityError, TemplateSyntaxError, UndefinedError):
            raise
        except TemplateError:  # raise_exception(…), its way to say that it does not take such messages
            return None
        if len(text) > LONGEST:
            raise OverflowError(f"{len(probe.messages)} short messages become {len(text):,} characters")
        return text

    outcome = run_apart(
        lambda: msgspec.json.encode(list(map(render, probes))).decode(),
        seconds=RENDER_S,
        memory_bytes=RENDER_BYTES,
    )
    raised = set(outcome.raised)
    if "SecurityError" in raised:
        raise ModelError(f"the chat template does what Jinja's sandbox forbids: {outcome.reason}; {OR_RAW}")
    if raised & {"TemplateSyntaxError", "UndefinedError"}:
        raise ModelError(f"the chat template is broken: {outcome.reason}; {OR_RAW}")
    if raised:
        raise ModelError(f"the chat template fails: {outcome.raised[0]}: {outcome.reason}; {OR_RAW}")
    return msgspec.json.decode(outcome.text, type=list[str | None])
