"""Derive every random stream of a run from its seed, by name."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a seed of 63 bits that depends on every part and on nothing else: `derive_seed(run_seed, "episode", task.id, 3)`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
