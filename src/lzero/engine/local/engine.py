"""The in-process engine: any transformers decoder, with continuous batching and per-request seeds.

    engine = LocalEngine(model, tokenizer, max_tokens=640, num_slots=128)
    completion = await engine.sample(ids, sampling, request_id="a/0", affinity="a", deadline_s=60.0)

The result of a request depends on its ids, its sampling and the weights. Batches of another shape may round differently in the last bits,
which can change a borderline draw. `deterministic=True` prevents that. Prompts are then fed one at a time, from their first id, and every
decode pass has the same shape (32 rows, whatever `num_slots` says, and `max_tokens` keys). On CPU, such a pass computes attention as plain
matrix products, because the rounding of torch's fused kernel depends on the thread. At its start the engine tests whether such a pass gives
a sequence the same bits in every row. If it does not, requests are computed one by one. On the nano model, determinism takes about 2.5
times the CPU time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from lzero.engine.local.arrays import Ints
from lzero.engine.local.cache import Forward
from lzero.engine.local.probe import check_policy, rows_are_independent
from lzero.engine.local.rows import Request, Rows
from lzero.engine.local.stops import Ending
from lzero.engine.local.worker import Worker
from lzero.errors import EngineError
from lzero.threads import computing_alone, several
from lzero.types import Completion, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Answer = TypeVar("Answer")
T = TypeVar("T")
DETERMINISTIC_ROWS = 32
"""Rows of every decode pass in deterministic mode; constant, because another shape may round differently."""
COMMAND_S = 600.0
"""Seconds that `score` and `load` may take, queueing included: far longer than any forward pass that is not stuck."""
CLOSE_S = 30.0
"""Seconds that `close` waits for the current forward pass."""


class LocalEngine:
    """Samples from a model in this process, whose weights it owns from now on. Implements `protocols.Engine`.

    It can be made without a running event loop. At most `num_slots` requests run at once, the others queue. A prompt and its completion
    together fit into `max_tokens`. Keys and values are allocated at once. Raises ModelError for a model that it would not sample from
    exactly (`probe`), EngineError for a cache that cannot fit.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerFast",
        *,
        max_tokens: int,
        num_slots: int,
        deterministic: bool = False,
    ) -> None:
        self._max_tokens = max_tokens
        self._vocab_size: int = model.config.get_text_config().vocab_size
        if deterministic:
            num_slots = DETERMINISTIC_ROWS
        forward = Forward(model, num_slots=num_slots, max_tokens=max_tokens)
        with computing_alone():
            check_policy(forward)
        num_threads = several()
        if deterministic and not _in_a_thread(rows_are_independent, forward, num_slots, num_threads=num_threads):
            num_slots = 1
            forward = Forward(model, num_slots=num_slots, max_tokens=max_tokens)
        ending = Ending(tokenizer, self._vocab_size, _eos_ids(model, tokenizer))
        self._worker = Worker(
            forward, ending, Rows(num_slots, max_tokens), fixed=deterministic, num_threads=num_threads
        )

    @property
    def version(self) -> int:
        return self._worker.version

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        """Continue `ids`. The last sequence of an `affinity` is remembered, so only the new ids of a prompt that extends it are fed.

        Raises EngineError for a request that does not fit, a missed deadline, and a stopped engine.
        """
        if sampling.max_tokens < 1 or sampling.temperature < 0.0 or not 0.0 < sampling.top_p <= 1.0:
            raise EngineError(f"request {request_id}: impossible sampling {sampling}")
        prompt = self._checked(ids, f"request {request_id}", max_new=sampling.max_tokens)
        request = Request(ids=prompt, sampling=sampling, affinity=affinity, answer=Future())
        self._worker.submit(request)
        future = asyncio.wrap_future(request.answer)
        try:
            async with asyncio.timeout(deadline_s):
                return await future
        except TimeoutError:
            raise EngineError(f"request {request_id}: no answer within {deadline_s:g} s") from None
        finally:
            if future.cancelled():
                self._worker.drop(request)

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]:
        """Return the log-probability (temperature 1) of each token given those before it; 0.0 for the first."""
        tokens = self._checked(ids, "score", max_new=0)
        return await _in_time(self._worker.ask(partial(self._worker.score, tokens)), "score")

    async def load(self, state_dict: Mapping[str, torch.Tensor], version: int) -> None:
        """Use these weights, under this policy version, from the next forward pass on; return when they are loaded.

        Running requests continue with them, from keys computed anew. Raises EngineError, and changes nothing, if they do not fit.
        """
        await self._command(partial(self._worker.load, state_dict, version), f"loading version {version}")

    async def pause(self) -> None:
        """Sample nothing, from the next forward pass on, until `resume`. Requests keep their places, and their deadlines."""
        await self._command(self._worker.pause, "pausing")

    async def resume(self) -> None:
        await self._command(self._worker.resume, "resuming")

    async def compute(self, function: Callable[[], T]) -> T:
        """Return what `function` returns or raises, called in the engine's thread between two forward passes, with gradients.

        Sampling waits meanwhile, and the function has all threads that the engine computes with (`lzero.threads`). There is no deadline.
        """
        return await asyncio.wrap_future(self._worker.ask(partial(_with_gradients, function), passes_on=Exception))

    async def forget(self, affinity: str) -> None:
        self._worker.forget(affinity)

    async def close(self) -> None:
        """Fail waiting requests, and end the thread. Raises EngineError if a forward pass takes longer than 30 s."""
        if not await asyncio.to_thread(self._worker.stop, CLOSE_S):
            raise EngineError(f"the engine's thread did not end within {CLOSE_S:g} s")

    async def _command(self, function: Callable[[], None], what: str) -> None:
        await _in_time(self._worker.ask(function), what)

    def _checked(self, ids: Sequence[int], what: str, *, max_new: int) -> Ints:
        """Return the ids as an array. Raises EngineError if the model cannot take them."""
        tokens = np.array(ids, dtype=np.int64)
        if len(tokens) == 0:
            raise EngineError(f"{what}: no ids")
        if tokens.min() < 0 or tokens.max() >= self._vocab_size:
            raise EngineError(f"{what}: ids beyond the model's vocabulary of {self._vocab_size}")
        if len(tokens) + max_new > self._max_tokens:
            raise EngineError(
                f"{what}: {len(tokens)} ids + {max_new} new ones do not fit into the engine's {self._max_tokens} tokens"
            )
        return tokens


def _in_a_thread(
    function: Callable[[Forward, int], bool], forward: Forward, num_slots: int, *, num_threads: int
) -> bool:
    """Return the result of `function` in a new thread with the worker's number of threads. Its OpenMP pool ends with it."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(num_threads,)) as thread:
        return thread.submit(function, forward, num_slots).result()


def _with_gradients(function: Callable[[], T]) -> T:
    with torch.inference_mode(False), torch.enable_grad():
        return function()


async def _in_time(answer: "Future[Answer]", what: str) -> Answer:
    try:
        async with asyncio.timeout(COMMAND_S):
            return await asyncio.wrap_future(answer)
    except TimeoutError:
        raise EngineError(f"{what}: no answer within {COMMAND_S:g} s, the engine is stuck in a forward pass") from None


def _eos_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Return the end-of-sequence ids of the tokenizer, and of the model's generation settings, which may name several."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    several = named if isinstance(named, list) else [named]
    return sorted({int(token) for token in (*several, tokenizer.eos_token_id) if token is not None})
