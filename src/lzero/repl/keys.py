"""Keys of [repl] that one kind of pool obeys, and another would ignore."""

from collections.abc import Collection

from lzero.config import ReplConfig
from lzero.errors import ConfigError

REMOTE = ("servers", "token_file", "certificate_authority")
"""These say where REPLs are; what they are like is said on the servers."""
LOCAL = tuple(key for key in ReplConfig.model_fields if key not in REMOTE)


def check_acting(config: ReplConfig, acting: Collection[str], why: str) -> None:
    """Raises ConfigError for a key that is set, and not among `acting`. `why`: they would not act; it may name the `{key}`."""
    usual = ReplConfig()
    for key in ReplConfig.model_fields:
        if key not in acting and getattr(config, key) != getattr(usual, key):
            raise ConfigError(f"repl.{key} would not act: {why.format(key=key)}")
