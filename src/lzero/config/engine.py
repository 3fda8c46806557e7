"""Keys of the engine: one section for each kind, selected by `engine.kind`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lzero.config.base import Section


class _Engine(Section):
    kind: str = ""
    """What samples replies: "local" (model.path, in this process), "chat" (a model behind an OpenAI-compatible endpoint; not for
    training), or "scripted" (a function instead of a model; not for training)."""


class LocalEngineConfig(_Engine):
    kind: Literal["local"] = "local"


class ChatEngineConfig(_Engine):
    kind: Literal["chat"] = "chat"
    model: str = Field(min_length=1)
    """Name of the model at the endpoint."""
    url: str = ""
    """Address of the endpoint, as http://localhost:8000/v1; empty: OPENAI_BASE_URL, else OpenAI's."""
    key: str = "OPENAI_API_KEY"
    """Variable of the environment, or of tools.env_file, that holds the endpoint's key; empty: it needs none."""


class ScriptedEngineConfig(_Engine):
    kind: Literal["scripted"] = "scripted"
    policy: str = Field(min_length=1)
    """A policy of the built-in world, as "expert", or the import path "package.module:policy" of a function (transcript, seed) ->
    reply."""


def _with_kind(values: Any) -> Any:
    return {"kind": "local", **values} if isinstance(values, dict) else values


EngineConfig = Annotated[
    LocalEngineConfig | ChatEngineConfig | ScriptedEngineConfig,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind),
]
"""Section of any kind of engine."""
DEFAULT_ENGINE = LocalEngineConfig()
