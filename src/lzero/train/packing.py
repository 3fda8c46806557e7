"""Choose how sequences share rows with this model, on its device.

The model's own code decides whether it keeps sequences apart. If it does not, it would learn from a mixture.
"""

import logging
from typing import TYPE_CHECKING, Literal

from lzero.algo.layout import Layout, Packing, fastest_packing
from lzero.errors import ModelError
from lzero.model_reach import shortest_reach
from lzero.train.attention.interface import kernel_of
from lzero.train.policy import compute_spec
from lzero.train.probe import PROBE_TOKENS, TOLERANCE, probe_ids, sample_of
from lzero.train.score import sample_logprobs
from lzero.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def choose_packing(model: "PreTrainedModel", wanted: Packing | Literal["auto"]) -> Packing:
    """Return the wanted packing or, for "auto", the fastest on the device that the model computes correctly.

    Raises ModelError if the model does not compute the wanted one correctly.
    """
    if wanted != "auto":
        check_packing(model, wanted)
        return wanted
    fastest = fastest_packing(compute_spec(model).device.type, has_kernel=kernel_of(model) is not None)
    try:
        check_packing(model, fastest)
    except ModelError as error:
        logger.warning("train.packing falls back to one row per sequence, which is slower: %s", error)
        return "padded"
    return fastest


def separate_scores(model: "PreTrainedModel") -> list[tuple[float, ...]]:
    """Return the log-probabilities of two sequences with a common prefix, in separate rows."""
    return sample_logprobs(model, _probes(model), Layout(max_tokens=2 * PROBE_TOKENS))


def check_packing(model: "PreTrainedModel", packing: Packing, *, apart: list[tuple[float, ...]] | None = None) -> None:
    """Score two sequences with a common prefix with this packing, and compare with `apart`, by default the scores in separate rows.

    Raises ModelError if the scores differ.
    """
    if packing == "padded":
        return
    if packing == "tree" and shortest_reach(model) is not None:
        raise ModelError(
            f"{type(model).__name__} has layers with a limited attention window, which a tree of sequences does not support: set "
            'train.packing = "padded"'
        )
    samples = _probes(model)
    apart = apart or separate_scores(model)
    try:
        together = sample_logprobs(model, samples, Layout(max_tokens=2 * PROBE_TOKENS, packing=packing))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f'{type(model).__name__} does not accept {packing} sequences: {error}; set train.packing = "padded"'
        ) from error
    gaps = [
        abs(one - other)
        for own, theirs in zip(apart, together, strict=True)
        for one, other in zip(own, theirs, strict=True)
    ]
    if not all(gap <= TOLERANCE[compute_spec(model).dtype] for gap in gaps):
        raise ModelError(
            f"{type(model).__name__} does not keep {packing} sequences apart: a log-probability differs by {max(gaps):.3f} from that of a "
            'row of its own; set train.packing = "padded"'
        )


def _probes(model: "PreTrainedModel") -> list[Sample]:
    ids = probe_ids(model.config.vocab_size)
    half = len(ids) // 2
    return [sample_of(ids), sample_of(ids[:half] + ids[:half][::-1])]
