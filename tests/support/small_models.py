"""Shape of models so small that a training run takes seconds."""

from lzero.models import Architecture

TINY = Architecture(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_size=24)
