"""Parse TOML in a time linear in its length: the time for a dotted key (`a.b.c = 1`) grows with the square of its parts, or faster."""

import re
import tomllib
from typing import Any

MAX_PARTS = 32
"""The most parts of a dotted key. No key of ours has more than a few."""
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]++|\\.)*+"?+|'[^'\n]*+'?+)"""
_TOKEN = re.compile(
    rf'''
    """(?:[^"\\]++|\\(?s:.)|"{{1,2}}(?!"))*+"*+   # strings of several lines; a string without end reaches to the end
    |\'\'\'(?:[^']++|'{{1,2}}(?!'))*+'*+
    |[#].*+
    |{_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{0,{MAX_PARTS - 1}}}+(?P<too_many>[ \t]*+\.[ \t]*+{_PART})?+
    ''',
    re.VERBOSE,
)


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a TOML document. Raises ValueError or RecursionError if it is none, or a key has more than MAX_PARTS parts."""
    for found in _TOKEN.finditer(text):
        if found["too_many"]:
            raise ValueError(f"{found.group()[:40]!r}… has more than {MAX_PARTS} parts")
    return tomllib.loads(text)
