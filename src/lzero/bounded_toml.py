"""Parse TOML in a time linear in its length: the time for a dotted key (`a.b.c = 1`) grows with the square of its parts, or faster."""

import re
import tomllib
from typing import Any

MAX_PARTS = 32
"""The most parts of a dotted key. No key of ours has more than a few."""
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]++|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_PARTS}}}")


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a TOML document. Raises ValueError or RecursionError if it is none, or a key has more than MAX_PARTS parts."""
    if found := _LONG_KEY.search(text):
        raise ValueError(f"{found.group()[:40]!r}… has more than {MAX_PARTS} parts")
    return tomllib.loads(text)
