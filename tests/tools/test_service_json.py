"""JSON of services that cut texts in the middle of a character."""

import json

import msgspec
import pytest

from lzero.tools.service import read_json

NEW = "\ufffd"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (rb'"a \ud83d\ude00 b"', "a 😀 b"),
        (rb'"cut \ud83d"', f"cut {NEW}"),
        (rb'"\uDE00 cut"', f"{NEW} cut"),
        (rb'"\ud83d\ud83d\ude00\ude00"', f"{NEW}😀{NEW}"),
        (rb'"\ud83d\\ude00"', NEW + r"\ude00"),
        (rb'"\\ud83d \ud83d"', r"\ud83d " + NEW),
        (b'"cut \xf0\x9f\x98"', f"cut {NEW}"),
        (b'"half \xed\xa0\xbd"', f"half {3 * NEW}"),
    ],
)
def test_half_a_character_is_replaced(body: bytes, text: str) -> None:
    assert read_json(body, str) == text


@pytest.mark.parametrize("body", [b"<html>", b'"\0"', b'"open', b'{"a": "\\ud83d"}', b'"\\x"', b"[" * 100_000])
def test_what_is_no_such_json_is_an_error(body: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        read_json(body, str)


def test_escapes_of_all_kinds_stay_as_they_are() -> None:
    text = '\\ \\\\ " \\u \\ud83d \n 😀'
    assert read_json(json.dumps([text, "\ud83d"]).encode(), list[str]) == [text, NEW]
