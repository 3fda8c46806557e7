"""What torch draws, and whether it may take a shortcut that rounds differently each time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lzero.config import RunConfig
from lzero.seeds import derive_seed


@contextmanager
def seeded(run: RunConfig) -> Iterator[None]:
    """While it lasts torch draws from the run's seed and, if `run.deterministic`, uses deterministic algorithms only.

    Build models and restore checkpoints inside it.
    """
    torch.manual_seed(derive_seed(run.seed, "torch"))
    before = torch.are_deterministic_algorithms_enabled()
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to be deterministic without it
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
