"""Check for keys of [repl] that one kind of pool obeys and another would ignore."""

from collections.abc import Collection

from lzero.config import ReplConfig
from lzero.errors import ConfigError

REMOTE = ("servers", "addresses", "token_file", "certificate_authority")
"""Keys that say where REPLs are. The servers have the keys that say what REPLs are like."""
LOCAL = tuple(key for key in ReplConfig.model_fields if key not in REMOTE)
SANDBOXED = tuple(key for key in ReplConfig.model_fields if key != "kernelspec")
UNSANDBOXED = (
    "tier",
    "kernelspec",
    "memory_mb",
    "output_kb",
    "cpu_s",
    "lifetime_s",
    "file_mb",
    "transfers",
    "tool_calls",
)


def check_acting(config: ReplConfig, acting: Collection[str], why: str) -> None:
    """Raise ConfigError for a key that is set and not among `acting`. `why`: the reason why it has no effect; it may name the `{key}`."""
    usual = ReplConfig()
    for key in ReplConfig.model_fields:
        if key not in acting and getattr(config, key) != getattr(usual, key):
            raise ConfigError(f"repl.{key} has no effect: {why.format(key=key)}")


def check_local(config: ReplConfig) -> None:
    """Raise ConfigError for a key without effect on REPLs of this machine."""
    check_acting(config, (*LOCAL, "token_file", "certificate_authority"), "this command is about REPLs of this machine")
    check_acting(config, LOCAL, "it is for repl.servers, and there are none")
