"""Send a new policy version to the engine, and probe that it arrived.

    pause ─▶ send ─▶ resume ─▶ probe: the same token ids, scored by learner and engine ─▶ metrics
      ▲                          │ they differ, the first time
      └──────────────────────────┘

A weight sync can report success and be wrong: a layer keeps a packed copy, or a name does not match. So it is repeated once, and a gap that
remains stops the run with both numbers.
"""

import logging
import math
import time
from functools import partial
from typing import TYPE_CHECKING

from lzero.algo.layout import Layout
from lzero.errors import TrainError
from lzero.train.score import TOLERANCE, probe_ids, probe_sample, sample_logprobs
from lzero.train.transfer import ModelWeights, WeightTransfer
from lzero.train.transfer.in_process import LoadingEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
TRIES = 2


async def publish(
    model: "PreTrainedModel", engine: LoadingEngine, transfer: WeightTransfer, *, version: int
) -> dict[str, float]:
    """Make `engine` sample from the weights of `model`, as policy `version`. Return the largest gap of the probe (nats), and the seconds.

    Raises TrainError if the two sides disagree on the probe twice. A sync without any effect is detected as soon as the policy has moved by
    more than the tolerance: at the first update, except for the smallest learning rates.
    """
    ids = probe_ids(model.config.vocab_size)
    for number in range(1, TRIES + 1):
        started = time.monotonic()
        await engine.pause()
        try:
            await transfer.send(ModelWeights(model), version=version)
        finally:
            await engine.resume()
        ours, theirs = await engine.compute(partial(_score, model, ids)), await engine.score(ids)
        gaps = [abs(own - other) for own, other in zip(ours, theirs, strict=True)]
        worst = max(range(len(gaps)), key=lambda index: math.inf if math.isnan(gaps[index]) else gaps[index])
        if gaps[worst] <= TOLERANCE[model.dtype]:
            return {"train/probe_gap": gaps[worst], "time/transfer_s": time.monotonic() - started}
        problem = (
            f"the engine does not hold the trainer's weights: after the transfer of version {version} token {worst} of the "
            f"probe has log-probability {ours[worst]:.6f} in the trainer and {theirs[worst]:.6f} in the engine "
            f"(tolerance {TOLERANCE[model.dtype]})"
        )
        if number < TRIES:
            logger.warning("%s; it is sent again", problem)
    raise TrainError(problem)


def _score(model: "PreTrainedModel", ids: tuple[int, ...]) -> tuple[float, ...]:
    return sample_logprobs(model, [probe_sample(ids)], Layout(max_tokens=len(ids)))[0]
