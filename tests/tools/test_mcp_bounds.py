"""The lines of an MCP server: bounded, and the number of the call that a line answers, read from its ends."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.tools.mcp_servers.bounds import MAX_MESSAGE, MAX_SKIPPED, MAX_VALUES, Line, ValueCounter, has_too_many, lines
from lzero.tools.mcp_servers.http import TooMuch, _Bounded


async def read(*pieces: bytes) -> list[Line]:
    stream = asyncio.StreamReader()
    for piece in pieces:
        stream.feed_data(piece)
    stream.feed_eof()
    return [line async for line in lines(stream)]


async def test_lines_are_put_together_from_pieces_however_they_come() -> None:
    data = b"one\n\ntwo\nthree without an end"
    for size in (1, 2, 5, 100):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert [line.text for line in await read(*pieces)] == [b"one\n", b"\n", b"two\n", b"three without an end"]


async def test_of_a_line_that_is_too_long_both_ends_are_kept_and_the_next_one_is_whole() -> None:
    long, short, edge = await read(b'{"id": 7, ' + b"x" * MAX_MESSAGE + b'"end"}\n', b"next\n", b"y" * MAX_MESSAGE)
    assert (long.is_cut, long.answers, long.text[-7:], len(long.text) < 1_000) == (True, 7, b'"end"}\n', True)
    assert short == Line(b"next\n")
    assert (edge.is_cut, len(edge.text)) == (False, MAX_MESSAGE)


async def test_a_line_without_an_end_is_given_up() -> None:
    with pytest.raises(ValueError, match="a line of more than"):
        await read(*[b"x" * (1 << 20)] * (2 + ((MAX_SKIPPED + MAX_MESSAGE) >> 20)))


def test_the_number_is_the_messages_own_whatever_stands_in_its_parts() -> None:
    inner = {"id": 5, "jsonrpc": "2.0", "text": '"id":6}', "list": [{"jsonrpc": "2.0", "id": 5}]}
    for message in (
        {"jsonrpc": "2.0", "id": 7, "result": inner},
        {"id": 7, "jsonrpc": "2.0", "result": inner},
        {"result": inner, "jsonrpc": "2.0", "id": 7},
        {"result": inner, "id": 7, "jsonrpc": "2.0"},
        {"result": {"a": inner}, "jsonrpc": "2.0", "id": 7},
    ):
        for separators in ((",", ":"), (", ", ": ")):
            assert Line(json.dumps(message, separators=separators).encode() + b"\r").answers == 7
    for other in ({"jsonrpc": "2.0", "result": inner}, {"result": inner}, {"jsonrpc": "2.0", "id": "seven"}, [inner]):
        assert Line(json.dumps(other).encode()).answers is None


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


@pytest.mark.parametrize(
    "content",
    [b'{"type":"text"}', b'{"\\u0074ype":"text"}', b'{"ty\\u0070e":"te\\"xt"}', b"0", b"[]", b'"\\\\"'],
    ids=["block", "escaped", "escaped quote", "number", "list", "backslash"],
)
def test_a_message_of_too_many_values_is_found_whatever_they_are(content: bytes) -> None:
    message = b'{"jsonrpc":"2.0","id":1,"result":{"content":[%s]}}' % b",".join([content] * (MAX_VALUES + 1))
    assert has_too_many(message)
    assert has_too_many(b': a comment with one " \ndata: ' + message)
    assert not has_too_many(json.dumps({"text": message.decode() * 2}).encode())


async def bounded(body: bytes, size: int, *, is_events: bool) -> None:
    """Read a response that comes in pieces of `size` bytes."""

    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for start in range(0, len(body), size):
                yield body[start : start + size]

    async for _ in _Bounded(Body(), is_events=is_events):
        pass


@pytest.mark.parametrize("size", [1, 1_000, 1 << 20])
async def test_values_of_a_message_are_counted_however_a_response_is_cut(size: int) -> None:
    half = b"{}" * (MAX_VALUES // 2)
    await bounded(half + half, size, is_events=False)
    for end in (b"\n\n", b"\r\r", b"\r\n\r\n"):
        await bounded(half + end + half + end + half, size, is_events=True)
    for between, is_events in ((b"\n\n", False), (b"\r\ndata: ", True), (b"\n", True)):
        with pytest.raises(TooMuch, match="too many values"):
            await bounded(half + between + half + between + half, size, is_events=is_events)
