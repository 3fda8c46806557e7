"""Read JSON of services that may cut a text within a character."""

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")
_HALF = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
"""Escape of one half of a surrogate pair."""
_BACKSLASH, _PLACEHOLDER = r"\\", "\0"
"""An escaped backslash, and its temporary replacement, which no JSON contains."""


def read_json(body: bytes, shape: type[T]) -> T:
    """Return JSON as `shape`. A part of a character that was cut in two is U+FFFD. Takes time linear in the body.

    Raises msgspec.DecodeError, UnicodeDecodeError, RecursionError.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body.decode("utf-8", "replace")
        if _PLACEHOLDER in text:
            raise
    text = _HALF.sub(r"\\ufffd", text.replace(_BACKSLASH, _PLACEHOLDER)).replace(_PLACEHOLDER, _BACKSLASH)
    return msgspec.json.decode(text, type=shape)
