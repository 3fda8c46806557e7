"""JSON in which characters were cut decodes to U+FFFD in their place."""

import json

from hypothesis import given
from hypothesis import strategies as st

from lzero.json_repair import Repair, repaired

PIECES = st.lists(
    st.sampled_from(
        [
            *(
                rb"\ud83d",
                rb"\uDE00",
                rb"\uD83D\udE00",
                rb"\\",
                rb"\"",
                rb"\n",
                rb"\u0041",
                rb"\ufffd",
                rb"ud83d",
                b"d83d",
                b"u",
            ),
            *("é".encode(), "😀".encode(), "😀".encode()[:2], "😀".encode()[2:], b"\xed\xa0\x80", b"a"),
        ]
    ),
    max_size=12,
).map(b"".join)


def expected(text: bytes) -> str:
    decoded: str = json.loads(b'"' + text.decode("utf-8", "replace").encode() + b'"')
    return decoded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(text=PIECES)
def test_half_a_character_is_a_replacement_character(text: bytes) -> None:
    assert json.loads(repaired(b'"' + text + b'"')) == expected(text)


@given(text=PIECES, size=st.integers(min_value=1, max_value=14))
def test_pieces_of_any_size_make_the_same_text(text: bytes, size: int) -> None:
    characters = Repair()
    parts = [characters.add(text[start : start + size]) for start in range(0, len(text), size)]
    assert b"".join((*parts, characters.add(b"", last=True))) == repaired(text)


@given(text=st.text())
def test_whole_text_stays_as_it_is(text: str) -> None:
    data = json.dumps(text.encode("utf-8", "replace").decode()).encode()
    assert repaired(data) == data


def test_no_other_byte_becomes_one_of_json() -> None:
    assert b"\0" not in repaired(b'"\0\0"')
    assert b"\\" not in repaired(b'"\0\0"')
