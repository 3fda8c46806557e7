"""Encode the turns of a conversation as tokens, only forwards: an encoded turn is never encoded again.

A chat template is probed once, with markers as contents, to find the pieces that it puts around them:

    <opening>USER<header>reply<to_user>OUTPUT<header>reply<to_user>OUTPUT<header> …
    <before_system>SYSTEM<to_task>USER<header>reply …

The pieces are encoded with their control tokens, the contents as plain text. So a `<|im_end|>` in a tool's result stays ten characters. The
probe contains no thoughts, so templates that delete them from the history (Qwen3's) do not matter here. It is made once: a template that
writes the date writes that of the run's start.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lzero.agent.chat_template import OR_RAW, Probe, split
from lzero.config import AgentConfig
from lzero.errors import ConfigError, ModelError
from lzero.marking import marked, without_control_tokens
from lzero.model_files import read_by_library
from lzero.types import Completion

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_SYSTEM = "lzero-probe-system"
_USERS = ("lzero-probe-task", "lzero-probe-output", "lzero-probe-again")
_REPLIES = ("lzero-probe-reply", "lzero-probe-answer")
_SYSTEMS = 16
"""Number of system prompts with cached tokens."""
_RAW_HEADING = re.compile(r"^(?:[^\S\n]|▁)*+(?:U(?=ser[\s▁]*+:)|A(?=ssistant[\s▁]*+:))", re.IGNORECASE | re.MULTILINE)
"""Headings of turns without a chat template. They are plain text, so the same lines in contents would look like turns."""
_SAMPLE = "  a text\n\n with spaces, 'quotes' and é 北京 "


@dataclass(frozen=True)
class _Pieces:
    """The template's text around the contents of a conversation."""

    opening: str
    header: str
    """Header of a reply, with the thought that it opens, if any."""
    thought: str
    to_user: str
    system: tuple[str, str] | None
    """(before the system prompt, between it and the task); None if the template has no system role."""


def open_renderer(agent: AgentConfig, tokenizer: "PreTrainedTokenizerFast") -> "Renderer":
    """Return the renderer that the settings ask for. Raises ConfigError for a setting without effect on a local model, and as `Renderer`
    does."""
    if agent.past_thoughts != "dropped":
        raise ConfigError(
            f'agent.past_thoughts = "{agent.past_thoughts}" has an effect with an endpoint only: a local model always sees its own thoughts'
        )
    return Renderer(tokenizer, raw=agent.template == "raw")


class Renderer:
    """Encodes the turns of an agent's conversation for one tokenizer.

    Raises ModelError, with the reason, for a chat template whose turns do not simply follow each other, or a tokenizer that does not
    reproduce texts.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", *, raw: bool = False) -> None:
        """`raw`: use plain headings and the tokenizer's end-of-text token instead of its chat template."""
        pieces = _raw(tokenizer) if raw else _probe(tokenizer)
        # Two separate encoders: on a shared one, every call would have to switch a flag, which other threads also see.
        backend = tokenizer.backend_tokenizer.to_str()
        self._with_specials = _encoder(backend)
        specials = set(tokenizer.all_special_ids)
        self._controls = specials | _controls(tokenizer)
        self._plain = _encoder(backend, text=self._controls)
        self._system_ids = lru_cache(_SYSTEMS)(self._text_ids)  # one for many episodes, and long
        self._pieces = pieces
        self._raw = raw
        self._opening = self._template_ids(pieces.opening)
        self._header = self._template_ids(pieces.header)
        self._to_user = self._template_ids(pieces.to_user)
        if not self._to_user or self._to_user[0] not in specials:
            raise ModelError(
                f"the chat template ends a reply with {pieces.to_user!r}, which does not begin with a special token: "
                "nothing would tell the model's end of turn from text"
            )
        self._check_forgery(tokenizer)
        self._check_round_trip(tokenizer)

    @property
    def end_of_turn(self) -> int:
        """The token that ends a turn."""
        return self._to_user[0]

    def start(self, system: str | None, user: str) -> tuple[int, ...]:
        """Return the first prompt, up to the header of the reply. Without a system role, the system prompt goes to the top of the user's
        turn."""
        if system is None:
            return (*self._opening, *self._text_ids(user), *self._header)
        if self._pieces.system is None:
            return (*self._opening, *self._text_ids(f"{system}\n\n{user}"), *self._header)
        before, to_task = map(self._template_ids, self._pieces.system)
        return (*before, *self._system_ids(system), *to_task, *self._text_ids(user), *self._header)

    @property
    def opening(self) -> str:
        """Text that the template itself writes at the start of every reply: "<think>" and what follows it, or nothing."""
        return self._pieces.thought

    def turn(self, completion: Completion | None, text: str) -> tuple[int, ...]:
        """Return the ids after a completion: its end of turn unless it was sampled, a user turn with `text`, the next header."""
        ended = completion is not None and completion.token_ids[-1:] == (self.end_of_turn,)
        return (*self._to_user[1 if ended else 0 :], *self._text_ids(text), *self._header)

    def _template_ids(self, text: str) -> tuple[int, ...]:
        return tuple(_encoded(self._with_specials, text))

    def _text_ids(self, text: str) -> tuple[int, ...]:
        ids = _encoded(self._plain, marked(text, _RAW_HEADING) if self._raw else text)
        if self._controls.isdisjoint(ids):
            return tuple(ids)
        # `_check_forgery` has not tried this spelling of a control token.
        return tuple(token for token in ids if token not in self._controls)

    def _check_forgery(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        """Prevent plain text from becoming control tokens, whether tokenizer.json calls these special or not."""
        for control in sorted(self._controls):
            text = tokenizer.convert_ids_to_tokens(control)
            if not self._controls.isdisjoint(_encoded(self._plain, f"{_SAMPLE}{text}")):
                raise ModelError(
                    f"the tokenizer reads {text!r} in plain text as a control token: tool outputs could forge turns; "
                    "make it one of the added_tokens of tokenizer.json"
                )

    def _check_round_trip(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        ids = (*self._text_ids(_SAMPLE), *self._to_user, *self._text_ids(_SAMPLE), *self._header)
        text = f"{_SAMPLE}{self._pieces.to_user}{_SAMPLE}{self._pieces.header}"
        decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if decoded != text:
            raise ModelError(f"the tokenizer does not preserve text: {text!r} became {decoded!r}")


def _encoded(encoder: "Tokenizer", text: str) -> list[int]:
    """Return the token ids of a text. Raises ModelError for a tokenizer that fails on it; a stranger may have written its patterns."""
    with read_by_library("the tokenizer", f"it cannot encode {text[:40]!r}"):
        ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
    return ids


def _controls(tokenizer: "PreTrainedTokenizerFast") -> set[int]:
    """Return the added tokens that structure a conversation: those that the chat template writes, and those spelled like `<|im_start|>`.

    Other added tokens are words, such as `<table>` or a run of spaces in some vocabularies.
    """
    template = str(tokenizer.chat_template or "")
    return {
        token
        for text, token in tokenizer.get_added_vocab().items()
        if text.strip() and (text in template or without_control_tokens(text) != text)
    }


def _encoder(backend: str, *, text: Collection[int] | None = None) -> "Tokenizer":
    """Return an encoder that reads control tokens, or with `text` encodes the spelling of these added tokens as plain text."""
    from tokenizers import Tokenizer

    state = json.loads(backend)
    for token in state["added_tokens"]:
        token["special"] |= token["id"] in (text or ())  # `encode_special_tokens` looks at this mark
    with read_by_library("the tokenizer", "it cannot be loaded"):
        encoder = Tokenizer.from_str(json.dumps(state))
    encoder.no_padding()
    encoder.no_truncation()
    encoder.encode_special_tokens = text is not None
    return encoder


def _raw(tokenizer: "PreTrainedTokenizerFast") -> _Pieces:
    if not isinstance(tokenizer.eos_token, str):
        raise ModelError("the tokenizer has no end-of-text token, which would end a turn")
    begin = tokenizer.bos_token if isinstance(tokenizer.bos_token, str) else ""
    return _Pieces(
        opening=f"{begin}User:\n",
        header="\n\nAssistant:\n",
        thought="",
        to_user=f"{tokenizer.eos_token}\n\nUser:\n",
        system=(begin, "\n\nUser:\n"),
    )


def _probe(tokenizer: "PreTrainedTokenizerFast") -> _Pieces:
    if not tokenizer.chat_template:
        raise ModelError(f"the tokenizer has no chat template, which marks where a turn starts and ends; {OR_RAW}")
    task, output, again = _USERS
    contents = (task, _REPLIES[0], output, _REPLIES[1], again)
    long, short, headless, with_system = split(
        tokenizer,
        Probe(contents),
        Probe((task,)),
        Probe(contents, header=False),
        Probe(contents, system=_SYSTEM),
    )
    if long is None or short is None:
        raise ModelError(f"the chat template drops, repeats or rewrites the contents of a conversation; {OR_RAW}")
    opening, to_reply, to_user, _, to_user_again, header = long
    if short != [opening, header] or to_user != to_user_again:
        raise ModelError(
            "the chat template changes the start of a conversation as it grows: a history would not stay a prefix "
            f"({short} for one turn, {long} for three); {OR_RAW}"
        )
    if headless == long:  # it ignores add_generation_prompt
        header = _header(header, to_reply)
    fits = with_system is not None and with_system[2:] == long[1:]
    before, think, after = header.partition("<think>")
    if "</think>" in after:  # an empty thought, that a reply would then not hold
        header, think, after = before, "", ""
    return _Pieces(
        opening=opening,
        header=header,
        thought=think + after,
        to_user=to_user,
        system=(with_system[0], with_system[1]) if with_system is not None and fits else None,
    )


def _header(tail: str, to_reply: str) -> str:
    """Return the header of a reply as it is in the history, for a template without one for the next reply. A thought belongs to the
    reply."""
    header = to_reply.partition("<think>")[0]
    if not header.startswith(tail):
        raise ModelError(
            f"the chat template writes {tail!r} where the next reply begins, and {to_reply!r} before the replies of a history: make it act "
            f"on add_generation_prompt; {OR_RAW}"
        )
    return header
