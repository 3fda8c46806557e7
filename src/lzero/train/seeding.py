"""Seed torch, and make it deterministic if configured."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lzero.config import RunConfig
from lzero.seeds import derive_seed


@contextmanager
def seeded(run: RunConfig) -> Iterator[None]:
    """Seed torch with the run's seed during the block and, if `run.deterministic`, allow only deterministic algorithms.

    Build models and restore checkpoints inside the block.
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
