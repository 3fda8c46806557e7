"""lzero: train language models, by reinforcement learning with verifiable rewards, to act as general agents."""

__version__ = "0.1.0"
