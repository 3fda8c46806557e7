"""Weights from the trainer to the engine, and the probe that shows they arrived.

A weight sync can answer "done" and be wrong: a layer keeps a packed copy, a name does not match. So after each one the same
token ids are scored on both sides, and a gap stops the run with both numbers.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from lzero.algo.layout import Layout
from lzero.errors import TrainError
from lzero.train.probe import TOLERANCE, probe_ids, probe_sample
from lzero.train.score import sample_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Answer = TypeVar("Answer")


@runtime_checkable
class LoadingEngine(Protocol):
    """An engine that a learner of the same process can load weights into."""

    def load(self, state_dict: Mapping[str, Tensor], version: int) -> Awaitable[None]:
        """Copy these weights between two forward passes; what is sampled from then on carries `version`."""

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]: ...

    async def compute(self, function: Callable[[], Answer]) -> Answer:
        """What `function` returns or raises, called where this process computes fastest; the event loop runs on meanwhile."""


async def transfer(model: "PreTrainedModel", engine: LoadingEngine, *, version: int) -> float:
    """Have `engine` sample from the weights of `model`, as policy `version`; returns the probe's largest gap (nats).

    Raises TrainError if the two sides disagree on the probe. A sync that changes nothing is found once the policy has moved
    by more than the tolerance, which is at the first update for all but the smallest learning rates.
    """
    await engine.load(model.state_dict(), version)
    ids = probe_ids(model.config.vocab_size)
    ours, theirs = await engine.compute(partial(_score, model, ids)), await engine.score(ids)
    gaps = [abs(own - other) for own, other in zip(ours, theirs, strict=True)]
    position = max(range(len(gaps)), key=lambda index: math.inf if math.isnan(gaps[index]) else gaps[index])
    if not gaps[position] <= TOLERANCE[model.dtype]:
        raise TrainError(
            f"the engine does not hold the trainer's weights: after the transfer of version {version} token {position} of the "
            f"probe has log-probability {ours[position]:.6f} in the trainer and {theirs[position]:.6f} in the engine "
            f"(tolerance {TOLERANCE[model.dtype]})"
        )
    return gaps[position]


def _score(model: "PreTrainedModel", ids: tuple[int, ...]) -> tuple[float, ...]:
    return sample_logprobs(model, [probe_sample(ids)], Layout(max_tokens=len(ids)))[0]
