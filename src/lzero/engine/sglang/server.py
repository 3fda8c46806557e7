"""Call the HTTP routes of one SGLang server. Not verified: routes and fields are those of SGLang 0.5.23, read in its source."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from lzero.engine.vllm.server import (
    CONTROL_S,
    KEY_REMEDY,
    MAX_BYTES,
    TOKEN_BYTES,
    Choice,
    Load,
    Logprobs,
    Span,
    TokenLogprob,
    VLLMServer,
)
from lzero.errors import EngineError
from lzero.types import Json, Sampling

Scored = tuple[float | None, int, str | None]
"""Log-probability of a token (None for the first of a prompt), its id, and its text if asked for."""


class FinishReason(Struct):
    type: str
    """"stop", "length" or "abort"."""


class Meta(Struct):
    finish_reason: FinishReason
    output_token_logprobs: list[Scored] = []
    input_token_logprobs: list[Scored] = []
    weight_versions: list[Span] = []


class Generated(Struct):
    """The response to a request for tokens."""

    meta_info: Meta


class Done(Struct):
    """The response to a command."""

    success: bool
    message: str = ""


class LoadOfRank(Struct):
    num_reqs: int
    num_waiting_reqs: int


class SGLangServer(VLLMServer):
    """HTTP client of one SGLang server, with the methods of vLLM's. Loads no LoRA adapters."""

    program = "SGLang"
    generate_route = "/generate"
    remedies = KEY_REMEDY

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
        settings = {
            "max_new_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "sampling_seed": sampling.seed % 2**63,  # acts with --enable-deterministic-inference only
            "stop": list(sampling.stop),
            "stop_token_ids": list(stop_ids),
            "no_stop_trim": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        }
        meta = await self._sampled(ids, settings, deadline_s=deadline_s)
        drawn = meta.output_token_logprobs
        return Choice(
            token_ids=[token for _, token, _ in drawn],
            logprobs=Logprobs([TokenLogprob(logprob) for logprob in self._logprobs(drawn)]),
            finish_reason=meta.finish_reason.type,
            weight_versions=meta.weight_versions,
        )

    async def score(self, ids: Sequence[int], *, adapter: str = "") -> tuple[float, ...]:
        settings = {"max_new_tokens": 1, "temperature": 1.0}
        found = (await self._sampled(ids, settings, first_scored=0)).input_token_logprobs
        if [token for _, token, _ in found] != list(ids):
            raise EngineError(f"{self.name} scored other tokens than the {len(ids)} that were sent")
        return (0.0, *self._logprobs(found[1:]))

    async def settings(self) -> Mapping[str, Any]:
        return await self._ask("GET", "/server_info", dict[str, Any])

    async def load(self, *, deadline_s: float = CONTROL_S) -> Load:
        ranks = await self._ask("GET", "/get_load", list[LoadOfRank], deadline_s=deadline_s)
        waiting = sum(rank.num_waiting_reqs for rank in ranks)
        running = sum(rank.num_reqs for rank in ranks) - waiting
        return Load(
            running=running, waiting=waiting, cache_usage=0.0, prefix_queries=0, prefix_hits=0, tokens=0, preemptions=0
        )

    async def pause(self, *, deadline_s: float = CONTROL_S) -> None:
        """Stop sampling, and drop all cached keys and values. Requests in flight compute theirs again after `resume`."""
        await self._ask("POST", "/pause_generation", None, json={"mode": "retract"}, deadline_s=deadline_s)
        await self._ask("POST", "/flush_cache", None, json={}, deadline_s=deadline_s)

    async def resume(self, *, deadline_s: float = CONTROL_S) -> None:
        await self._ask("POST", "/continue_generation", None, json={}, deadline_s=deadline_s)

    async def name_weights(self, name: str, *, deadline_s: float = CONTROL_S) -> None:
        body = {"new_version": name, "abort_all_requests": False}
        await self._command("/update_weight_version", body, deadline_s)

    async def weights_name(self) -> str:
        return str((await self._ask("GET", "/model_info", dict[str, Any])).get("weight_version"))

    async def update(self, update: Mapping[str, Json], *, name: str, deadline_s: float) -> None:
        """Load the safetensors file that `update` names, from its directory, and name the weights."""
        body = {
            "model_path": str(Path(str(update["path"])).parent),
            "weight_version": name,
            "flush_cache": True,
            "abort_all_requests": False,
        }
        await self._command("/update_weights_from_disk", body, deadline_s)

    async def _sampled(
        self, ids: Sequence[int], settings: Mapping[str, Any], *, first_scored: int = -1, deadline_s: float = CONTROL_S
    ) -> Meta:
        """Return the tokens that continue `ids`, and scores of the prompt's from `first_scored` on; -1: none."""
        body = {
            "input_ids": list(ids),
            "sampling_params": settings,
            "return_logprob": True,
            "logprob_start_len": first_scored,
        }
        max_bytes = MAX_BYTES + TOKEN_BYTES * (len(ids) + settings["max_new_tokens"])
        found = await self._ask(
            "POST", self.generate_route, Generated, json=body, max_bytes=max_bytes, deadline_s=deadline_s
        )
        return found.meta_info

    def _logprobs(self, scored: Sequence[Scored]) -> list[float]:
        """Return the log-probabilities. Raises EngineError for null, which JSON has in place of NaN and infinity."""
        found = [logprob for logprob, _, _ in scored if logprob is not None]
        if len(found) < len(scored):
            raise EngineError(
                f"{self.name} gave no log-probability for {len(scored) - len(found)} of {len(scored)} tokens"
            )
        return found

    async def _command(self, route: str, body: Mapping[str, Any], deadline_s: float) -> None:
        done = await self._ask("POST", route, Done, json=body, deadline_s=deadline_s)
        if not done.success:
            raise EngineError(f"{self.name} failed {route}: {done.message}")
