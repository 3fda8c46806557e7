"""The optional libraries with which lzero samples and trains models itself: `pip install 'lzero[train]'`.

A pool server, an agent on an endpoint, and `lzero show` work without them.
"""

import importlib.util

from lzero.errors import ConfigError

TRAIN = ("matplotlib", "numpy", "safetensors", "tokenizers", "torch", "transformers")
"""Libraries of the extra `train`."""


def need_train(what: str) -> None:
    """Raise ConfigError if a library of the extra `train` is missing; `what` is the subject of its message."""
    if missing := [name for name in TRAIN if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"{what} needs {', '.join(missing)}: pip install 'lzero[train]'")
