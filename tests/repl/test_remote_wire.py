"""Bytes from the network are one of lzero's messages, or a ProtocolError."""

import math
import tracemalloc

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lzero.errors import (
    EngineError,
    ForkRefused,
    LzeroError,
    PoolFull,
    ProtocolError,
    ReplDied,
    ReplError,
    SandboxError,
    ToolError,
    WorkspaceError,
)
from lzero.repl.remote import wire
from lzero.repl.wire import MAX_FRAME, encode
from lzero.repl.wire import Reply as ToKernel
from lzero.types import Execution, Json, Stream

LOAD = wire.Load(repls=3, max_repls=8)
FROM_CLIENT = (
    wire.Open(id=1, tools=(), seed=2**63 - 1),
    wire.Run(id=2, repl=1, code="print('é')", deadline_s=2.5),
    wire.Reply(id=2, value=b'{"a":1}'),
    wire.Reply(id=2, error="no"),
    wire.Fork(id=6, repl=1, seed=0),
    wire.Put(id=3, repl=1, path="a/b", size=0),
    wire.Part(id=3, data=b"\x00\xff", last=True),
    wire.More(id=4),
    wire.Beat(),
    wire.Close(id=5, repl=1),
)
FROM_SERVER = (
    wire.Welcome(lease_s=30.0, file_bytes=1 << 20, facts=b"{}", load=LOAD),
    wire.Opened(id=1, load=LOAD),
    wire.Call(id=2, name="search", arguments=b"{}"),
    wire.Done(
        id=2, execution=Execution(outputs=(Stream(name="stdout", text="1\n"),), status="ok", duration_s=0.1, reason="")
    ),
    wire.Failed(id=2, error="ReplDied", message="gone", load=LOAD),
)


@pytest.mark.parametrize("message", FROM_CLIENT)
def test_a_message_of_a_client_comes_back_as_it_was(message: wire.FromClient) -> None:
    assert wire.decode_client(wire.encode(message)) == message


@pytest.mark.parametrize("message", FROM_SERVER)
def test_a_message_of_a_server_comes_back_as_it_was(message: wire.FromServer) -> None:
    assert wire.decode_server(wire.encode(message)) == message


@given(
    st.binary(max_size=200)
    | st.builds(lambda value: msgspec.msgpack.encode(value), st.dictionaries(st.text(), st.integers(-1, 9)))
)
@example(b"\x91" * 100_000)
@example(msgspec.msgpack.encode({"type": "run", "id": 1, "repl": 1, "code": "1", "deadline_s": math.nan}))
@example(msgspec.msgpack.encode({"type": "run", "id": 0, "repl": 1, "code": "1", "deadline_s": 1.0}))
@example(msgspec.msgpack.encode({"type": "put", "id": 1, "repl": 1, "path": "a", "size": -1}))
def test_anything_else_is_a_protocol_error(data: bytes) -> None:
    for decode in (wire.decode_client, wire.decode_server):
        try:
            message = decode(data)
        except ProtocolError:
            continue
        assert decode(wire.encode(message)) == message


def test_what_does_not_fit_is_not_sent() -> None:
    for message in (
        wire.Reply(id=1, value=bytes(wire.MAX_MESSAGE)),
        wire.Open(id=1, tools=(), seed=2**65),
        wire.Put(id=1, repl=1, path="\ud800", size=0),
    ):
        with pytest.raises(ProtocolError):
            wire.encode(message)
    with pytest.raises(ProtocolError, match="characters of code"):
        wire.run(1, 1, "x" * (wire.MAX_MESSAGE + 1), 1.0)
    assert wire.run(1, 1, "\ud800", math.inf) == wire.Run(id=1, repl=1, code="?", deadline_s=wire.MAX_DEADLINE_S)


@pytest.mark.parametrize(
    "kind", [ReplError, SandboxError, ProtocolError, ReplDied, ForkRefused, WorkspaceError, PoolFull]
)
def test_an_error_keeps_its_class_and_message(kind: type[LzeroError]) -> None:
    error = wire.error_of(wire.failure(1, kind("why"), LOAD))
    assert (type(error), str(error)) == (kind, "why")
    wire.encode(wire.failure(1, kind("\ud800" + "x" * wire.MAX_MESSAGE), LOAD))  # whatever is in it, it can be told


def test_an_error_that_the_table_does_not_know_is_the_pools() -> None:
    class Unheard(ReplDied):
        pass

    assert type(wire.error_of(wire.failure(1, Unheard("x"), LOAD))) is ReplDied
    for error in (EngineError("x"), ToolError("x", fault="tool")):
        assert type(wire.error_of(wire.failure(1, error, LOAD))) is ReplError
    assert type(wire.error_of(wire.Failed(id=1, error="KeyboardInterrupt", message="x", load=LOAD))) is ReplError


def test_arguments_and_answers_are_json() -> None:
    value: dict[str, Json] = {"a": [1, None, 10**30, "é"], "b": {"c": 0.5}}
    assert wire.object_of(wire.dump(value)) == value
    for data in (b"[1]", b"", b"\xff", b"[" * 100_000):
        with pytest.raises(ProtocolError):
            wire.object_of(data)
    for data in (b"{", b'"\xff"', b"[" * 100_000, b"1 2"):
        with pytest.raises(ProtocolError):
            wire.value_of(wire.Reply(id=1, value=data))


def test_json_costs_the_host_no_more_than_its_bytes() -> None:
    """Of eight megabytes of the smallest lists there would be hundreds, as objects."""
    bomb = b"[" + b"[]," * (MAX_FRAME // 3 - 100) + b"[]]"
    tracemalloc.start()
    try:
        answer = ToKernel(value=wire.value_of(wire.Reply(id=1, value=bomb)))
        assert len(encode(answer)) > len(bomb)
        with pytest.raises(ToolError, match=r"search: 8,\d+,\d+ bytes of arguments; 1,048,576 are allowed"):
            wire.arguments_of(wire.Call(id=1, name="search", arguments=bomb))
        with pytest.raises(ProtocolError, match="bytes of JSON"):
            wire.object_of(bomb)
        stub = {"name": "search", "parameters": ["x"] * 1_000_000, "description": ""}
        for tools in ([stub], [stub | {"parameters": []}] * 1_000):
            with pytest.raises(ProtocolError, match="not a message of a client: it has another shape"):
                wire.decode_client(msgspec.msgpack.encode({"type": "open", "id": 1, "tools": tools, "seed": 0}))
        with pytest.raises(ProtocolError, match="not a message of a server: it has another shape"):
            wire.decode_server(
                msgspec.msgpack.encode({"type": "listing", "id": 1, "files": [{"path": "x", "size": 1}] * 5_000})
            )
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_FRAME
    finally:
        tracemalloc.stop()
