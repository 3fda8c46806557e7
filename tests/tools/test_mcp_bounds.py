"""The lines of an MCP server: bounded, and the number of the call that a line answers, read from its ends."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from lzero.tools.mcp_servers.bounds import MAX_MESSAGE, MAX_SKIPPED, MAX_VALUES, Line, lines
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


async def test_an_event_is_passed_on_at_once_whatever_it_ends_with() -> None:
    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield rb'data: "a\n"}]}}' + b"\n\n"
            await asyncio.Event().wait()

    async with asyncio.timeout(20.0):
        assert await anext(aiter(_Bounded(Body(), is_events=True))) == rb'data: "a\n"}]}}' + b"\n\n"
