"""The optional libraries, by extra: `pip install 'lzero[train]'`.

A pool server, an agent on an endpoint, and `lzero show` work without them.
"""

import importlib.util

from lzero.errors import ConfigError

EXTRAS = {
    "data": ("datasets", "datasketch", "duckdb"),
    "gguf": ("accelerate", "gguf"),
    "lora": ("peft",),
    "low-bit": ("torchao",),
    "math": ("math_verify", "sympy"),
    "ray": ("ray",),
    "train": ("matplotlib", "numpy", "safetensors", "tokenizers", "torch", "transformers"),
}
"""Extra → the libraries that it installs, by the names under which Python imports them."""


def need(extra: str, *, what: str) -> None:
    """Raise ConfigError if a library of the extra is missing; `what` is the subject of its message."""
    if missing := [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"{what} needs {', '.join(missing)}: pip install 'lzero[{extra}]'")


def extra_of(library: str) -> str:
    """Return the extra that installs a library; "" if none of EXTRAS does."""
    return next((extra for extra, libraries in EXTRAS.items() if library in libraries), "")
