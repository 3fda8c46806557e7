"""The tool `look`: a vision model answers a question about an image of the workspace.

The model may be any that an OpenAI-compatible endpoint serves (chat completions, the image as a data URL). It never receives the agent's
file itself, only a small copy that the converter drew from it.
"""

import base64
from typing import Annotated

import msgspec

from lzero.config import Config
from lzero.errors import ConfigError, ToolError
from lzero.marking import without_control_tokens
from lzero.protocols import Tool, ToolContext
from lzero.tools.catalog import KernelPython
from lzero.tools.converter import Converter
from lzero.tools.function import tool
from lzero.tools.keys import need_key
from lzero.tools.service import Service, host_of, with_retries
from lzero.tools.web import WebClient
from lzero.turns import Turns
from lzero.types import Json
from lzero.visible import clean

TIMEOUT_S = 45.0
"""Seconds of one request; a model may think. Requests that are retried (`Retried`) failed sooner."""
REQUESTS = 8
"""The most requests to the vision model at once."""
MAX_QUESTION_CHARS = 4_000
MAX_ANSWER_TOKENS = 1_024
MAX_ANSWER_CHARS = 8_000
ASKED_WRONG = (400, 408, 413, 422, 500, 504)
"""Statuses with which an endpoint refuses a question or an image, fails on it or takes too long; the agent chose both. A failure of the
endpoint itself may look the same."""


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message


class _Reply(msgspec.Struct, frozen=True):
    """The fields of a chat completion that are read."""

    choices: Annotated[tuple[_Choice, ...], msgspec.Meta(min_length=1)]


def open_look(config: Config, _: KernelPython) -> Tool:
    """Return the tool `look(path, question)`, with answers of `tools.vision_model` at `tools.vision_url`.

    Raises ConfigError for an invalid URL, no model, or no key.
    """
    tools = config.tools
    model = tools.vision_model
    if not model:
        raise ConfigError("the tool look needs a vision model: set tools.vision_model to its name at the endpoint")
    key = need_key(tools.vision_key, purpose="the tool look", env_file=tools.env_file) if tools.vision_key else None
    hosts = (host_of(tools.vision_url, setting="tools.vision_url"),)
    service = Service(
        name=f"the vision model {model}",
        url=f"{tools.vision_url.rstrip('/')}/chat/completions",
        client=WebClient(timeout_s=TIMEOUT_S, allow_hosts=hosts, proxy=tools.proxy),
        key=key,
        key_variable=tools.vision_key,
        asked_wrong=ASKED_WRONG,
        advice="ask for less, or look at a smaller image",
    )
    converter, turns = Converter(), Turns(REQUESTS, service.name)

    @tool
    async def look(path: str, question: str, context: ToolContext) -> str:
        """What a model that sees answers to a question about an image of the workspace (PNG, JPEG, GIF, WebP, BMP, TIFF)."""
        question = clean(question)
        if not question.strip() or len(question) > MAX_QUESTION_CHARS:
            raise ToolError(f"look needs a question of 1 to {MAX_QUESTION_CHARS:,} characters", fault="agent")
        media_type, image = await converter.image(await context.read_file(path), path)
        shown: dict[str, Json] = {"url": f"data:{media_type};base64,{base64.b64encode(image).decode()}"}
        asked = without_control_tokens(question)
        content: list[Json] = [{"type": "text", "text": asked}, {"type": "image_url", "image_url": shown}]
        messages: list[Json] = [{"role": "user", "content": content}]
        async with turns.turn():
            reply = await service.ask(
                _Reply, json={"model": model, "max_completion_tokens": MAX_ANSWER_TOKENS, "messages": messages}
            )
        return _text(reply.choices[0].message, service.name)

    # No cache: the file at a path may be another image after the next cell.
    return with_retries(look, config)


def _text(message: _Message, name: str) -> str:
    said = (message.content or message.refusal or "").strip()
    if not said:  # the question asks for that, or for more thought than MAX_ANSWER_TOKENS
        raise ToolError(f"{name} gave an empty answer; ask another question", fault="agent")
    if len(said) > MAX_ANSWER_CHARS:
        return f"{said[:MAX_ANSWER_CHARS]}\n[cut: the answer has {len(said):,} characters]"
    return said
