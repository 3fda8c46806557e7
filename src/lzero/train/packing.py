"""Whether a model keeps apart what is packed in one row: its own code decides, and one that does not would learn from a mixture."""

from typing import TYPE_CHECKING

from lzero.algo.batches import Layout
from lzero.errors import ModelError
from lzero.train.score import sample_logprobs
from lzero.train.transfer import TOLERANCE, probe_ids, probe_sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_packing(model: "PreTrainedModel") -> None:
    """Score two sequences in a row each and packed in one. Raises ModelError where that is not the same."""
    ids = probe_ids(model.config.vocab_size)
    samples = [probe_sample(ids), probe_sample(ids[::-1])]
    apart = sample_logprobs(model, samples, Layout(max_tokens=len(ids)))
    packed = sample_logprobs(model, samples, Layout(max_tokens=2 * len(ids), packed=True))
    gaps = [
        abs(one - other)
        for own, theirs in zip(apart, packed, strict=True)
        for one, other in zip(own, theirs, strict=True)
    ]
    if not all(gap <= TOLERANCE[model.dtype] for gap in gaps):
        raise ModelError(
            f"{type(model).__name__} does not keep packed sequences apart: a log-probability differs by {max(gaps):.3f} from that of a row "
            'of its own; set train.packing = "padded"'
        )
