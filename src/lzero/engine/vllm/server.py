"""Call the HTTP routes of one vLLM server: sample, score, read its settings, pause, and load weights.

Routes and fields are those of vLLM 0.32. The server must run with VLLM_SERVER_DEV_MODE=1 and --enable-scale-out (`program.command`).
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import httpx2
import msgspec
from msgspec import Struct

from lzero.errors import EngineError, NoAnswer
from lzero.text import one_line
from lzero.types import Json, Sampling

logger = logging.getLogger(__name__)
T = TypeVar("T")
CONTROL_S = 120.0
"""Seconds that a request other than sampling may take."""
LOOK_S = 15.0
"""Seconds that a server has to tell its health or its load."""
KEEP_ALIVE_S = 2.0
"""Seconds that an idle connection is kept. A server closes one after 5 s, and must not do so while a request is on its way."""
MAX_BYTES = 8 << 20
"""Bytes of the largest response, besides those for tokens."""
TOKEN_BYTES = 1_000
"""Bytes that a response may hold for each token of the request and of the completion; vLLM writes some hundred."""
KEY_REMEDY = {401: "; engine.key must name the variable with its key"}
"""Status of a response that refuses a key → what the user can do."""
ERROR_CHARS = 500
"""Longest part of a server's error message that is quoted."""


class Span(Struct):
    """Output tokens from `start` to before `end`, sampled under a version of the weights."""

    version: str
    start: int
    end: int


class TokenLogprob(Struct):
    logprob: float


class Logprobs(Struct):
    content: list[TokenLogprob] | None = None


class Choice(Struct):
    token_ids: list[int]
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    weight_versions: list[Span] | None = None


class Generated(Struct):
    """The response to a request for tokens."""

    choices: list[Choice]
    prompt_logprobs: list[dict[str, TokenLogprob] | None] | None = None
    """For each prompt token, None for the first: its id → its log-probability; other ids may be included."""


class _WorldSize(Struct):
    """Part of the answer of /get_world_size that is used."""

    world_size: int


class _Info(Struct):
    vllm_config: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Load:
    """Load of a server at one moment."""

    running: int
    """Requests that are being sampled."""
    waiting: int
    """Requests that wait for room."""
    cache_usage: float
    """Share of the memory for keys and values that is in use."""
    prefix_queries: int
    """Prompt tokens since the start."""
    prefix_hits: int
    """Those of them whose keys and values were cached."""
    tokens: int
    """Tokens of prompts and completions that were computed since the start."""
    preemptions: int
    """Times that a request was stopped since the start, because memory for keys and values was full."""


_METRIC = re.compile(r"^vllm:(\w+)(?:\{[^}\n]*\})? (\S+)$", re.MULTILINE)


class VLLMServer:
    """HTTP client of one server."""

    program: ClassVar[str] = "vLLM"
    """What the server runs, for messages."""
    generate_route: ClassVar[str] = "/inference/v1/generate"
    remedies: ClassVar[Mapping[int, str]] = {
        **KEY_REMEDY,
        403: "; start it with --enable-scale-out",
        404: "; start it with VLLM_SERVER_DEV_MODE=1",
    }
    """Status of a response → what its user can do."""

    def __init__(self, name: str, *, url: str = "http://localhost", socket: Path | None = None, key: str = "") -> None:
        """`name`: the server's name in messages. `socket`: a Unix socket, used in place of the host of `url`."""
        self.name = name
        self.url = "" if socket is not None else url
        """The server's address; "" if it has a Unix socket."""
        transport = httpx2.AsyncHTTPTransport(
            uds=str(socket) if socket is not None else None,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_S),
        )
        # A compressed response could be far larger than the bytes that are counted.
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._client = httpx2.AsyncClient(
            base_url=url, transport=transport, headers=headers, timeout=None, trust_env=False
        )

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        stop_ids: Sequence[int],
        adapter: str = "",
        request_id: str,
        deadline_s: float,
    ) -> Choice:
        """Continue `ids`, with a LoRA adapter if one is named. Raises EngineError.

        The completion ends with one of `stop_ids`, a stop string, or at its length.
        """
        settings = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed % 2**63,
            "stop": list(sampling.stop),
            "stop_token_ids": list(stop_ids),
            "include_stop_str_in_output": True,
            # Control tokens are text, too: a stop string may be one.
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "logprobs": 0,
        }
        body = _body(ids, settings, adapter)
        found = await self._generated(
            body, request_id=request_id, num_tokens=len(ids) + sampling.max_tokens, deadline_s=deadline_s
        )
        return found.choices[0]

    async def score(self, ids: Sequence[int], *, adapter: str = "") -> tuple[float, ...]:
        """Return the log-probability (temperature 1) of each token given those before it; 0.0 for the first. Raises EngineError."""
        settings = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        body = _body(ids, settings, adapter)
        answer = await self._generated(body, request_id="score", num_tokens=len(ids), deadline_s=CONTROL_S)
        found = answer.prompt_logprobs
        if found is None or len(found) != len(ids):
            raise EngineError(
                f"{self.name} gave no log-probabilities of the {len(ids)} tokens that it was asked to score"
            )
        rest = zip(ids[1:], found[1:], strict=True)
        try:
            return (0.0, *((given or {})[str(token)].logprob for token, given in rest))
        except KeyError as error:
            raise EngineError(f"{self.name} scored other tokens than those sent: {error} is missing") from None

    async def takes(self, token: int) -> bool:
        """Return whether this id is in the server's vocabulary. Raises EngineError if the server does not sample at all."""
        await self.score([0])
        try:
            await self.score([token])
        except NoAnswer:
            raise
        except EngineError:
            return False
        return True

    async def settings(self) -> Mapping[str, Any]:
        """Return vLLM's version as "version", and its configuration, section by section. Raises EngineError."""
        version = await self._ask("GET", "/version", dict[str, Any])
        info = await self._ask("GET", "/server_info", _Info, params={"config_format": "json"})
        return {"version": version.get("version"), **info.vllm_config}

    async def is_ready(self) -> bool:
        """Return whether the server answers."""
        try:
            await self._ask("GET", "/health", None, deadline_s=LOOK_S)
        except EngineError:
            return False
        return True

    async def load(self, *, deadline_s: float = LOOK_S) -> Load:
        """Return the current load. Raises EngineError."""
        async with self._failures("/metrics", deadline_s):
            sums: dict[str, float] = {}
            for name, value in _METRIC.findall((await self._content("GET", "/metrics")).decode()):
                sums[name] = sums.get(name, 0.0) + float(value)
            if "generation_tokens_total" not in sums:
                raise ValueError("it counts no tokens")
            return Load(
                running=int(sums.get("num_requests_running", 0.0)),
                waiting=int(sums.get("num_requests_waiting", 0.0)),
                cache_usage=sums.get("kv_cache_usage_perc", 0.0),
                prefix_queries=int(sums.get("prefix_cache_queries_total", 0.0)),
                prefix_hits=int(sums.get("prefix_cache_hits_total", 0.0)),
                tokens=int(sums.get("prompt_tokens_total", 0.0) + sums.get("generation_tokens_total", 0.0)),
                preemptions=int(sums.get("num_preemptions_total", 0.0)),
            )

    async def pause(self, *, deadline_s: float = CONTROL_S) -> None:
        """Stop sampling, and drop all cached keys and values. Requests in flight compute theirs again after `resume`."""
        await self._ask("POST", "/pause", None, params={"mode": "keep", "clear_cache": "true"}, deadline_s=deadline_s)

    async def resume(self, *, deadline_s: float = CONTROL_S) -> None:
        await self._ask("POST", "/resume", None, deadline_s=deadline_s)

    async def name_weights(self, name: str, *, deadline_s: float = CONTROL_S) -> None:
        """Name the weights in use."""
        await self._ask("POST", "/update_weight_version", None, json={"new_version": name}, deadline_s=deadline_s)

    async def weights_name(self) -> str:
        """Return the name of the weights in use."""
        info = await self._ask("GET", "/weight_info", dict[str, Any])
        return str(info.get("weight_version"))

    async def num_workers(self) -> int:
        """Return the number of its workers, each of which holds a part of the weights or all of them."""
        return (await self._ask("GET", "/get_world_size", _WorldSize)).world_size

    async def prepare_updates(self, info: Mapping[str, Json], *, deadline_s: float = CONTROL_S) -> None:
        """Prepare the server for `update`. Needed once after its start. `info`: the settings of its backend."""
        body = {"init_info": info}
        await self._ask("POST", "/init_weight_transfer_engine", None, json=body, deadline_s=deadline_s)

    async def leave_group(self, *, deadline_s: float = CONTROL_S) -> None:
        """Undo `prepare_updates`. A server refuses it after a failed update; `prepare_updates` then replaces what was prepared."""
        try:
            await self._ask("POST", "/shutdown_weight_transfer_engine", None, deadline_s=deadline_s)
        except NoAnswer:
            raise
        except EngineError as error:
            logger.info("%s stays in its group until it joins another: %s", self.name, error)

    async def update(self, update: Mapping[str, Json], *, name: str, deadline_s: float) -> None:
        """Load weights, and name them. `update`: what the backend's update takes, as JSON. The server must be paused. Raises EngineError.

        After a failure the server may hold parts of two policies: repeat this before `resume`.
        """
        await self._ask("POST", "/start_weight_update", None, deadline_s=deadline_s)
        await self._ask("POST", "/update_weights", None, json={"update_info": update}, deadline_s=deadline_s)
        await self._ask("POST", "/finish_weight_update", None, json={"weight_version": name}, deadline_s=deadline_s)

    async def load_adapter(self, name: str, directory: Path, *, deadline_s: float) -> None:
        """Load a LoRA adapter from a directory that the server sees under this path. Raises EngineError, also for a broken adapter."""
        body = {"lora_name": name, "lora_path": str(directory)}
        await self._ask("POST", "/v1/load_lora_adapter", None, json=body, deadline_s=deadline_s)

    async def unload_adapter(self, name: str, *, deadline_s: float) -> None:
        """Forget a LoRA adapter. Raises EngineError, also if there is none of this name."""
        await self._ask("POST", "/v1/unload_lora_adapter", None, json={"lora_name": name}, deadline_s=deadline_s)

    def move(self, url: str) -> None:
        """Send requests to another address from now on, where the server runs after a restart."""
        self.url = url
        self._client.base_url = url

    async def close(self) -> None:
        await self._client.aclose()

    async def _generated(
        self, body: Mapping[str, Any], *, request_id: str, num_tokens: int, deadline_s: float
    ) -> Generated:
        found = await self._ask(
            "POST",
            self.generate_route,
            Generated,
            json={**body, "request_id": request_id},
            max_bytes=MAX_BYTES + TOKEN_BYTES * num_tokens,
            deadline_s=deadline_s,
        )
        if not found.choices:
            raise EngineError(f"{self.name} answered request {request_id} without a completion")
        return found

    async def _ask(
        self,
        method: str,
        route: str,
        kind: type[T] | None,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        max_bytes: int = MAX_BYTES,
        deadline_s: float = CONTROL_S,
    ) -> T:
        """Return the response, decoded as `kind`; None: do not decode it. Raises EngineError for a failure, and after the deadline."""
        async with self._failures(route, deadline_s):
            content = None if json is None else msgspec.json.encode(json)
            headers = {} if json is None else {"Content-Type": "application/json"}
            # After a failure the server closes the connection, which a later request could still try to use.
            if route != self.generate_route:
                headers["Connection"] = "close"
            answer = await self._content(
                method, route, max_bytes=max_bytes, content=content, headers=headers, params=params
            )
            return msgspec.json.decode(answer, type=kind) if kind is not None else None  # type: ignore[return-value]

    async def _content(self, method: str, route: str, *, max_bytes: int = MAX_BYTES, **request: Any) -> bytes:
        """Return the content of a response. Raises EngineError for one that is a refusal, too large, or compressed; and httpx2's errors."""
        async with self._client.stream(method, route, **request) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise EngineError(f"{self.name} compressed its answer to {route}, which it was asked to send as it is")
            content = bytearray()
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > max_bytes:
                    raise EngineError(f"{self.name} answered {route} with more than {max_bytes:,} bytes")
        if response.status_code != 200:
            # As UTF-8, whatever encoding the server names: some of Python's take quadratic time, or fail.
            said = one_line(content[: 4 * ERROR_CHARS].decode("utf-8", "replace"))[:ERROR_CHARS]
            remedy = self.remedies.get(response.status_code, "")
            raise EngineError(f"{self.name} refused {route} (HTTP {response.status_code}): {said}{remedy}")
        return bytes(content)

    @asynccontextmanager
    async def _failures(self, route: str, deadline_s: float) -> AsyncIterator[None]:
        """Convert the failures of a request to EngineError, and to NoAnswer if there was no response."""
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError:
            raise NoAnswer(f"{self.name} did not answer {route} within {deadline_s:g} s") from None
        except httpx2.HTTPError as error:
            raise NoAnswer(f"{self.name} broke off {route}: {str(error) or type(error).__name__}") from None
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
            raise EngineError(f"{self.name} answered {route} unlike {self.program}: {error!s:.200}") from None


def _body(ids: Sequence[int], settings: Mapping[str, Any], adapter: str) -> dict[str, Any]:
    """Return the body of a request for tokens."""
    return {"token_ids": list(ids), "sampling_params": settings, **({"model": adapter} if adapter else {})}
