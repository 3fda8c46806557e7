"""Is a row of a batch computed the same way wherever it stands and whatever its neighbours hold? Asked of the machine."""

import numpy as np
import torch

from lzero.engine.local_arrays import Ints
from lzero.engine.local_cache import Forward

NUM_POSITIONS = 4


@torch.inference_mode()
def rows_are_independent(forward: Forward, num_rows: int) -> bool:
    """Whether decode passes of `num_rows` rows and of full key length give a sequence the same bits in every row.

    The same ids in every row have to give the same logits in all; then, with other ids around it, each of three rows
    has to give them again. Matrix kernels are free to treat the edge of a batch otherwise; on one that does, this is False.
    """
    ids = np.random.default_rng(0).integers(0, forward.model.config.get_text_config().vocab_size, NUM_POSITIONS)
    expected = torch.empty(0)
    for position, token in enumerate(ids.tolist()):
        logits = _pass(forward, np.full((num_rows, 1), token), np.full((num_rows, 1), position))
        if not (logits == logits[0]).all():
            return False
        expected = logits[0]
    for row in {0, num_rows // 2, num_rows - 1}:
        tokens = np.resize(ids[:-1], (num_rows, 1))
        positions = np.full((num_rows, 1), -1)
        tokens[row], positions[row] = ids[-1], NUM_POSITIONS - 1
        if not (_pass(forward, tokens, positions)[row] == expected).all():
            return False
    return True


def _pass(forward: Forward, tokens: Ints, positions: Ints) -> torch.Tensor:
    return forward(tokens, positions, rows=None, kv_length=forward.scratch)
