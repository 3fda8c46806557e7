"""Make micro-batches by hand, for losses, which read only the numbers of tokens."""

from collections.abc import Sequence

import torch

from lzero.algo.batches import MicroBatch


def make_micro_batch(
    num_tokens: int,
    *,
    steps: Sequence[int] | None = None,
    episodes: Sequence[int] | None = None,
    **numbers: Sequence[float],
) -> MicroBatch:
    """Return a micro-batch of one row, in which all tokens but the first are actions.

    By default each token is a separate step of one episode; numbers are 0, temperatures 1.
    """
    names = ("temperatures", "logprobs", "old_logprobs", "reference_logprobs", "advantages", "weights")
    assert numbers.keys() <= set(names)
    columns: dict[str, Sequence[float]] = {name: [0.0] * num_tokens for name in names}
    columns |= {"temperatures": [1.0] * num_tokens} | numbers
    return MicroBatch(
        token_ids=torch.zeros(1, num_tokens + 1, dtype=torch.int64),
        position_ids=None,
        attention_mask=None,
        predictors=torch.arange(num_tokens),
        targets=torch.zeros(num_tokens, dtype=torch.int64),
        steps=torch.tensor(range(num_tokens) if steps is None else steps, dtype=torch.int64),
        episodes=torch.tensor([0] * num_tokens if episodes is None else episodes, dtype=torch.int64),
        versions=torch.zeros(num_tokens, dtype=torch.int64),
        **{name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()},
    )
