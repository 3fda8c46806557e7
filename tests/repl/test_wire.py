"""Frames: what is valid comes through, everything else is a ProtocolError."""

import asyncio
import contextlib
import json
import socket
import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.errors import ProtocolError, ToolError
from lzero.repl import wire
from lzero.repl.connection import Connection
from lzero.types import Error, Stream

CHARS = 2_000_000
"""Characters of a cell's outputs."""


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def test_a_done_frame_becomes_typed_outputs() -> None:
    body = json.dumps(
        {
            "type": "done",
            "id": 1,
            "status": "error",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": "hi"},
                {"output_type": "error", "ename": "E", "evalue": "", "traceback": []},
            ],
        }
    )
    message = wire.decode(body.encode())
    assert isinstance(message, wire.Done)
    assert (message.id, message.status) == (1, "error")
    assert wire.outputs_of(message, CHARS) == (
        Stream(name="stdout", text="hi"),
        Error(ename="E", evalue="", traceback=()),
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"type":"run","id":1,"code":""}',
        b'{"type":"ready","more":1}',
        b'{"type":"call","id":"1","name":"x","arguments":{}}',
        b'{"type":"call","id":1,"name":"x","arguments":{"v":NaN}}',
        b'{"type":"call","id":1,"name":"\\ud800","arguments":{}}',
        b'{"type":"call","id":1,"name":"\xff","arguments":{}}',
        b'{"type":"call","id":1,"name":"x","arguments":{"v":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"type":"done","id":1,"status":"fine","outputs":[]}',
    ],
)
def test_what_is_no_frame_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        wire.decode(body)
    with pytest.raises(ProtocolError):
        wire.decode_zygote(body)


def done(outputs: bytes) -> wire.Done:
    return wire.Done(id=1, status="ok", outputs=msgspec.Raw(outputs))


@pytest.mark.parametrize("outputs", [b"{}", b"1", b'[{"output_type":"reward"}]', b'[{"output_type":"</output>"}]'])
def test_what_are_no_outputs_is_refused_without_a_quote(outputs: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        wire.outputs_of(done(outputs), CHARS)
    assert "output>" not in str(caught.value)


@pytest.mark.parametrize("arguments", [b"[]", b"1", b'{"v":1e999}'])
def test_what_are_no_arguments_is_refused(arguments: bytes) -> None:
    call = wire.decode(b'{"type":"call","id":1,"name":"x","arguments":' + arguments + b"}")
    assert isinstance(call, wire.Call)
    with pytest.raises(ProtocolError):
        wire.arguments_of(call)


def test_too_many_bytes_of_arguments_are_the_agents_fault() -> None:
    call = wire.Call(id=1, name="x", arguments=msgspec.Raw(b"[" + b"0," * (wire.MAX_ARGUMENTS // 2) + b"0]"))
    with pytest.raises(ToolError, match="bytes of arguments"):
        wire.arguments_of(call)


def test_too_many_outputs_are_refused() -> None:
    output = {"output_type": "stream", "name": "stdout", "text": ""}
    with pytest.raises(ProtocolError, match="1000 outputs"):
        wire.outputs_of(done(json.dumps([output] * 1000).encode()), CHARS)


@pytest.mark.parametrize("number", [0, -2, 4096, 2**40, 10**4000])
def test_a_refusal_has_a_number_that_the_system_has_words_for(number: int) -> None:
    with pytest.raises(ProtocolError):
        wire.decode(b'{"type":"refused","errno":%d}' % number)


def test_strings_without_number_are_refused_before_they_are_made() -> None:
    shown = b'{"output_type":"error","ename":"","evalue":"","traceback":[' + b'"a",' * 2_000_000 + b'"a"]}'
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="quotation marks"):
        wire.outputs_of(done(b"[" + shown + b"]"), CHARS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * wire.MAX_FRAME  # two million strings would be a hundred megabytes


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_protocol_error(body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        wire.decode(body)


@pytest.mark.parametrize("length", [0, 1, wire.MAX_FRAME + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_the_body(length: int) -> None:
    with pytest.raises(ProtocolError):
        wire.body_length(struct.pack(">I", length))


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ProtocolError):
        wire.encode(wire.Reply(value="x" * wire.MAX_FRAME))


async def test_frames_in_pieces_and_several_at_once_come_through() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    until = asyncio.get_running_loop().time() + 10
    call = b'{"type":"call","id":1,"name":"x","arguments":{}}'
    data = frame(b'{"type":"ready"}') + frame(call)
    for byte in data[:-3]:
        theirs.send(bytes([byte]))
    assert await connection.receive(until=until) == wire.Ready()
    waiting = asyncio.create_task(connection.receive(until=until))
    await asyncio.sleep(0)
    theirs.send(data[-3:])
    assert await waiting == wire.Call(id=1, name="x", arguments=msgspec.Raw(b"{}"))
    connection.close()
    theirs.close()


async def test_a_timeout_or_a_cancellation_loses_no_byte() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    loop = asyncio.get_running_loop()
    data = frame(b'{"type":"ready"}')
    theirs.send(data[:7])
    with pytest.raises(TimeoutError):
        await connection.receive(until=loop.time() + 0.01)
    waiting = asyncio.create_task(connection.receive(until=loop.time() + 10))
    await asyncio.sleep(0)
    waiting.cancel()
    theirs.send(data[7:])
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await connection.receive(until=loop.time() + 10) == wire.Ready()
    connection.close()
    theirs.close()


async def test_the_end_of_the_stream_and_a_reader_that_never_reads_are_seen() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        await connection.send(wire.Run(id=1, code="x" * 4_000_000), until=loop.time() + 0.05)
    theirs.close()
    with pytest.raises(ConnectionError):
        await connection.receive(until=loop.time() + 10)
    with pytest.raises(ConnectionError):
        await connection.send(wire.Run(id=1, code="x"), until=loop.time() + 10)
    connection.close()


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"done","id":1,"status":"ok","outputs":[],"</output>":1}',
        b'{"type":"</output>"}',
        b'{"type":"done","id":1,"status":"</output>","outputs":[]}',
    ],
)
def test_a_refusal_quotes_nothing_of_the_frame(body: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        wire.decode(body)
    assert "output>" not in str(caught.value)
