"""Check requests before they are sent to a server, and convert its responses to completions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lzero.engine.vllm.adapters import Adapter
from lzero.engine.vllm.server import Choice
from lzero.errors import EngineError
from lzero.models import decode
from lzero.text import one_line
from lzero.types import Completion, Sampling, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 2.0
"""Range of temperatures besides 0; vLLM silently changes one outside of it."""
LEAST_LOGPROB, ROUNDING = -1_000.0, 0.01
"""Log-probabilities of sampled tokens are from the least to 0, up to rounding: at temperature 2 no token below some -200 is ever drawn."""
NAME_CHARS = 100
"""Longest part of a name of weights that is quoted."""


def weights_name(owner: str, version: int) -> str:
    """Return the name that the servers give to a policy version; `owner` makes it unique among runs."""
    return f"{owner}/{version}"


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Check of requests, and conversion of responses to completions."""

    tokenizer: "PreTrainedTokenizerFast"
    stop_ids: frozenset[int]
    vocab_size: int
    max_tokens: int
    owner: str
    """First part of the names of this run's weights."""

    def check(self, ids: Sequence[int], sampling: Sampling, request_id: str) -> None:
        """Raise EngineError for a request that the server would reject or silently change."""
        temperature = sampling.temperature
        if sampling.max_tokens < 1 or not 0.0 < sampling.top_p <= 1.0:
            raise EngineError(f"request {request_id}: impossible sampling {sampling}")
        if temperature != 0.0 and not LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
            raise EngineError(
                f"request {request_id}: temperature {temperature:g}: the server samples at 0 or from {LOWEST_TEMPERATURE} to "
                f"{HIGHEST_TEMPERATURE:g}"
            )
        if len(ids) == 0:
            raise EngineError(f"request {request_id}: no ids")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise EngineError(f"request {request_id}: ids beyond the model's vocabulary of {self.vocab_size}")
        if len(ids) + sampling.max_tokens > self.max_tokens:
            raise EngineError(
                f"request {request_id}: {len(ids)} ids + {sampling.max_tokens} new ones do not fit into the engine's "
                f"{self.max_tokens} tokens"
            )

    def completion(self, choice: Choice, request_id: str, *, newest: int, adapter: Adapter | None = None) -> Completion:
        """Convert a response of the base model, or of base and adapter. `newest`: the newest policy version that the servers were sent.

        Raises EngineError for no tokens or impossible ones, for log-probabilities that are missing or impossible, and for weights that
        this run has not sent.
        """
        ids = choice.token_ids
        if not ids or len(ids) > self.max_tokens or min(ids) < 0 or max(ids) >= self.vocab_size:
            raise EngineError(
                f"request {request_id}: the server answered with no tokens, more than {self.max_tokens}, or ids beyond the model's "
                f"vocabulary of {self.vocab_size}"
            )
        logprobs = choice.logprobs.content if choice.logprobs is not None else None
        if logprobs is None or len(logprobs) != len(ids):
            raise EngineError(f"request {request_id}: the server gave no log-probability for each of {len(ids)} tokens")
        if odd := [token.logprob for token in logprobs if not LEAST_LOGPROB <= token.logprob <= ROUNDING]:
            raise EngineError(
                f"request {request_id}: the server gave the log-probability {odd[0]:g} to a token that it sampled; "
                f"{LEAST_LOGPROB:g} to 0 are possible"
            )
        if choice.finish_reason not in ("stop", "length"):
            raise EngineError(f"request {request_id}: the server ended the completion with {choice.finish_reason!r}")
        versions = self._versions(choice, request_id, newest)
        ended = ids[-1] in self.stop_ids
        stop_reason: StopReason = "eos" if ended else "stop" if choice.finish_reason == "stop" else "length"
        return Completion(
            token_ids=tuple(ids),
            logprobs=tuple(min(token.logprob, 0.0) for token in logprobs),
            text=decode(ids[:-1] if ended else ids, self.tokenizer),
            stop_reason=stop_reason,
            versions=versions if adapter is None else ((adapter.version, len(ids)),),
        )

    def _versions(self, choice: Choice, request_id: str, newest: int) -> tuple[tuple[int, int], ...]:
        """Return spans of (policy version, number of tokens). Raises EngineError for weights that this run has not sent."""
        spans = choice.weight_versions or []
        owner = weights_name(self.owner, 0)[:-1]
        own = re.compile(re.escape(owner) + "[0-9]{1,18}")
        foreign = sorted({span.version for span in spans if not own.fullmatch(span.version)})
        if foreign or not spans:
            named = one_line(", ".join(foreign)[:NAME_CHARS]) or "nothing"
            raise EngineError(
                f"request {request_id}: the server samples from weights named {named}, not from a version of this run: it was restarted, "
                "or another program uses it"
            )
        ends = [0, *(span.end for span in spans)]
        if [span.start for span in spans] != ends[:-1] or ends != sorted(ends) or ends[-1] != len(choice.token_ids):
            raise EngineError(f"request {request_id}: the versions of the weights do not cover the completion's tokens")
        versions = tuple((int(span.version.removeprefix(owner)), span.end - span.start) for span in spans)
        if (last := max(version for version, _ in versions)) > newest:
            raise EngineError(
                f"request {request_id}: the server samples from version {last}; the newest one is {newest}"
            )
        return versions
