"""The values of JSON are counted without decoding it, however it is written and cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.json_bounds import EventCounter, ValueCounter, has_too_many

MOST = 3_000

json_values = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\\\{[,é'),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(alphabet='a"\\\\{,'), values, max_size=4),
)


def num_values(value: object) -> int:
    """Return the number of lists, objects and commas of a JSON value."""
    if not isinstance(value, list | dict):
        return 0
    parts = value if isinstance(value, list) else list(value.values())
    return 1 + max(0, len(parts) - 1) + sum(map(num_values, parts))


@given(value=json_values, is_ascii=st.booleans(), size=st.integers(1, 9))
def test_values_are_counted_however_they_are_written_and_cut(value: object, is_ascii: bool, size: int) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()
    counter = ValueCounter()
    for start in range(0, len(text), size):
        counter.add(text[start : start + size])
    assert counter.count == num_values(value)


@given(
    values=st.lists(json_values, min_size=1, max_size=4),
    line=st.sampled_from((b"\n", b"\r\n", b"\r")),
    size=st.integers(1, 9),
)
def test_each_event_of_a_stream_is_counted_by_itself(values: list[object], line: bytes, size: int) -> None:
    stream = b"".join(b"data: " + json.dumps(value).encode() + 2 * line for value in values)
    counter = EventCounter()
    found = [counter.add(stream[start : start + size]) for start in range(0, len(stream), size)]
    assert max(found) == max(map(num_values, values))


@pytest.mark.parametrize(
    "content",
    [b'{"type":"text"}', b'{"\\u0074ype":"text"}', b'{"ty\\u0070e":"te\\"xt"}', b"0", b"[]", b'"\\\\"'],
    ids=["block", "escaped", "escaped quote", "number", "list", "backslash"],
)
def test_a_message_of_too_many_values_is_found_whatever_they_are(content: bytes) -> None:
    message = b'{"jsonrpc":"2.0","id":1,"result":{"content":[%s]}}' % b",".join([content] * (MOST + 1))
    assert has_too_many(message, MOST)
    assert has_too_many(b': a comment with one " \ndata: ' + message, MOST)
    assert not has_too_many(json.dumps({"text": message.decode() * 2}).encode(), MOST)
