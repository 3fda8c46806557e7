"""A tokenizer's chat template, rendered in a process of its own: it is a program of whoever made the model.

The process is a fork of this one, with limits on its memory and time. So a template that loops, recurses or makes one huge value
ends that process, nothing else.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lzero.apart import run_apart
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
            text = str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=header))
            if len(text) > LONGEST:
                raise OverflowError(f"{len(messages)} short messages become {len(text):,} characters")
            return text

        outcome = run_apart(render, seconds=RENDER_S, memory_bytes=RENDER_BYTES)
        raised = set(outcome.raised)
        if "SecurityError" in raised:
            raise ModelError(f"the chat template does what Jinja's sandbox forbids: {outcome.reason}; {OR_RAW}")
        if raised & {"TemplateSyntaxError", "UndefinedError"}:
            raise ModelError(f"the chat template is broken: {outcome.reason}; {OR_RAW}")
        if "TemplateError" in raised:
            return None
        if raised:
            raise ModelError(f"the chat template fails: {outcome.raised[0]}: {outcome.reason}; {OR_RAW}")
        return outcome.text
