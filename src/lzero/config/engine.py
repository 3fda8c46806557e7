"""Keys of the engine: one section for each kind, selected by `engine.kind`."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import BeforeValidator, Field

from lzero.config.base import Count, Positive, Section


class _Engine(Section):
    kind: str = ""
    """What samples replies: "local" (model.path, in this process), "vllm" or "sglang" (model.path, in servers), "chat" (a model behind an
    OpenAI-compatible endpoint; not for training), or "scripted" (a function instead of a model; not for training)."""


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
    tokenizer: str = ""
    """Model directory whose tokenizer and chat template the episodes use, so that demonstrations have the budgets of the model that learns
    from them; empty: the world's words, or bytes for a policy of your own."""


class _Servers(_Engine):
    urls: tuple[str, ...] = ()
    """Addresses of running servers to sample from, as http://10.0.0.7:8000; empty: lzero starts its own (vLLM only)."""
    key: str = ""
    """Variable of the environment, or of tools.env_file, that holds the key of the servers in urls; empty: they need none."""
    shared_directory: str = ""
    """Directory for new weights, which the servers in urls see under the same path; empty: they run on this machine, as the same user."""
    sync_s: Positive = 300.0
    """Seconds that each step of a transfer of weights may take."""

    @pydantic.field_validator("urls")
    @classmethod
    def _addresses_without_secrets(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for parts in map(urlsplit, urls):
            if "@" in parts.netloc:
                raise ValueError(
                    "an address contains a user name or password, and the run would record it: name the variable of a key in engine.key"
                )
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError(f"{parts.geturl()!r} is no address of a server, as http://10.0.0.7:8000")
        return urls


class SGLangEngineConfig(_Servers):
    kind: Literal["sglang"] = "sglang"
    urls: tuple[str, ...] = Field(min_length=1)
    """Addresses of running servers to sample from, as http://10.0.0.7:30000."""


class VLLMEngineConfig(_Servers):
    kind: Literal["vllm"] = "vllm"
    transfer: Literal["file", "nccl", "adapter"] = "file"
    """How new weights reach the servers: "file" (a file, in memory or in shared_directory), "nccl" (a broadcast from the trainer's GPU; the
    trainer's environment must contain vLLM), or "adapter" (only the LoRA adapter of lora.rank, as files; each version has its own name)."""
    program: str = ".servers/vllm/bin/vllm"
    """Command that starts vLLM, in vLLM's own Python environment (`make vllm` makes one for CPUs)."""
    replicas: Count = 1
    """Number of servers that lzero starts; each holds the whole model."""
    devices_per_replica: Count = 1
    """Tensor parallelism of each server that lzero starts: the number of its GPUs."""
    arguments: tuple[str, ...] = ()
    """Further arguments of `vllm serve`, for servers that lzero starts."""
    kv_cache_gb: Positive = 1.0
    """Memory in GB for the keys and values of each server that lzero starts on CPUs."""
    start_s: Positive = 600.0
    """Seconds in which a server must start."""
    hang_s: Positive = 60.0
    """Seconds without a new token, while requests run, after which a server counts as hung; a server that is started with
    --disable-log-stats never does."""


def _with_kind(values: Any) -> Any:
    return {"kind": "local", **values} if isinstance(values, dict) else values


EngineConfig = Annotated[
    LocalEngineConfig | ChatEngineConfig | ScriptedEngineConfig | SGLangEngineConfig | VLLMEngineConfig,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind),
]
"""Section of any kind of engine."""
DEFAULT_ENGINE = LocalEngineConfig()
