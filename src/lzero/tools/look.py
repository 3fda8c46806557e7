"""The tool `look`: a vision model answers a question about an image of the workspace.

The model may be any that an OpenAI-compatible endpoint serves (chat completions, the image as a data URL). It never receives the agent's
file itself, only a small copy that the converter drew from it.
"""

import base64
from urllib.parse import urlsplit

import msgspec

from lzero.errors import ConfigError, ToolError
from lzero.marking import without_control_tokens
from lzero.protocols import Tool, ToolContext
from lzero.tools.converter import Converter
from lzero.tools.function import tool
from lzero.tools.keys import Secret, need_key
from lzero.tools.retry import ServiceError, Unanswered
from lzero.tools.service_json import read_json
from lzero.tools.web import WebClient, ask_service
from lzero.turns import Turns

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

    choices: tuple[_Choice, ...]


def open_look(
    converter: Converter, *, base_url: str, model: str, key_variable: str = "", env_file: str = "", proxy: str = ""
) -> Tool:
    """Return the tool `look(path, question)`, with answers of `model` at `base_url` ("https://api.openai.com/v1",
    "http://127.0.0.1:8000/v1").

    The key is in `key_variable`, in the environment or in `env_file`; "" for an endpoint without a key. It makes one try per call;
    `Retried` adds more. Raises ConfigError for an invalid URL, no model, or no key.
    """
    if not model:
        raise ConfigError("the tool look needs a vision model: set tools.vision_model to its name at the endpoint")
    key = need_key(key_variable, purpose="the tool look", env_file=env_file) if key_variable else None
    client = WebClient(timeout_s=TIMEOUT_S, allow_hosts=(_host(base_url),), proxy=proxy)
    turns = Turns(REQUESTS, f"the vision model {model}")

    @tool
    async def look(path: str, question: str, context: ToolContext) -> str:
        """What a model that sees answers to a question about an image of the workspace (PNG, JPEG, GIF, WebP, BMP, TIFF)."""
        if not question.strip() or len(question) > MAX_QUESTION_CHARS:
            raise ToolError(f"look needs a question of 1 to {MAX_QUESTION_CHARS:,} characters", fault="agent")
        media_type, image = await converter.image(await context.read_file(path), path)
        data_url = f"data:{media_type};base64,{base64.b64encode(image).decode()}"
        async with turns.turn():
            try:
                answer = await ask_service(
                    client,
                    f"{base_url.rstrip('/')}/chat/completions",
                    name=f"the vision model {model}",
                    key_variable=key_variable,
                    method="POST",
                    headers=_headers(key),
                    asked_wrong=ASKED_WRONG,
                    json={
                        "model": model,
                        "max_completion_tokens": MAX_ANSWER_TOKENS,
                        "messages": [
                            {
                                "role": "user",
                                "content": [
                                    {"type": "text", "text": without_control_tokens(question)},
                                    {"type": "image_url", "image_url": {"url": data_url}},
                                ],
                            }
                        ],
                    },
                )
            except Unanswered as error:
                raise ToolError(f"{error}; ask for less, or look at a smaller image", fault="agent") from None
        return _text(answer.body, model)

    return look


def _text(body: bytes, model: str) -> str:
    try:
        reply = read_json(body, _Reply)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ServiceError(f"the vision model {model} answered with no chat completion: {error}") from None
    if not reply.choices:
        raise ServiceError(f"the vision model {model} answered nothing")
    said = (reply.choices[0].message.content or reply.choices[0].message.refusal or "").strip()
    if not said:  # the question asks for that, or for more thought than MAX_ANSWER_TOKENS
        raise ToolError(f"the vision model {model} gave an empty answer; ask another question", fault="agent")
    if len(said) > MAX_ANSWER_CHARS:
        return f"{said[:MAX_ANSWER_CHARS]}\n[cut: the answer has {len(said):,} characters]"
    return said


def _headers(key: Secret | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.reveal()}"} if key else {}


def _host(base_url: str) -> str:
    """Return the "host:port" of the endpoint, which the configuration may place anywhere."""
    try:
        parts = urlsplit(base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f'tools.vision_url = {base_url!r} is not a URL, as in "https://api.openai.com/v1"')
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"
