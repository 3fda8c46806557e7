"""Malformed, forged, replayed, huge and slow frames: whatever bytes a session writes, the host has a valid message or a typed
refusal, in time and memory that its limits bound."""

import asyncio
import contextlib
import importlib.util
import json
import resource
import socket
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fuzz_targets import REQUESTS, Request, ask, decode, decode_remote, frame, read
from hypothesis import given, settings
from hypothesis import strategies as st

from lzero.repl import wire
from lzero.repl.connection import Connection

NUMBERS = st.one_of(st.integers(-2, 3), st.integers(), st.sampled_from([2**31, 2**63, 2**64, 10**400, 1e308, 0.5]))
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
TEXTS = st.text(max_size=20)
OUTPUTS = st.one_of(
    st.fixed_dictionaries({"output_type": st.just("stream"), "name": st.sampled_from(["stdout", "x"]), "text": TEXTS}),
    st.fixed_dictionaries(
        {
            "output_type": st.sampled_from(["execute_result", "display_data"]),
            "data": st.dictionaries(st.sampled_from(["text/plain", "image/png"]), TEXTS | VALUES),
        }
    ),
    st.fixed_dictionaries(
        {"output_type": st.just("error"), "ename": TEXTS, "evalue": TEXTS, "traceback": st.lists(TEXTS, max_size=3)}
    ),
    VALUES,
)
ARGUMENTS = st.dictionaries(st.sampled_from(["query", "self"]) | TEXTS, VALUES, max_size=3)
FILES = st.lists(
    st.fixed_dictionaries({"path": st.sampled_from(["a", "../a", ""]) | TEXTS, "size": NUMBERS}), max_size=3
)


def said(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a message with mostly valid fields."""
    return st.fixed_dictionaries({"type": st.just(kind), **fields}, optional={"extra": SCALARS})


CALL = said("call", id=NUMBERS, name=st.sampled_from(["search", "fail"]) | TEXTS, arguments=ARGUMENTS | VALUES)
DONE = said(
    "done", id=NUMBERS, status=st.sampled_from(["ok", "error", "killed"]), outputs=st.lists(OUTPUTS, max_size=3)
)
CHUNK = said("chunk", data=st.sampled_from(["", "YWJj", "YWJ", "?"]) | TEXTS, last=st.booleans() | SCALARS)
REFUSED = said("refused", errno=NUMBERS)
ANSWERS: dict[Request, st.SearchStrategy[dict[str, Any]]] = {
    "become": said("ready") | said("failed", reason=TEXTS),
    "run": CALL | DONE,
    "put": said("stored") | REFUSED,
    "get": CHUNK | REFUSED,
    "files": said("listing", files=FILES | VALUES) | REFUSED,
}
"""What is due, more or less."""
MESSAGES = st.one_of(
    *ANSWERS.values(),
    said("hello", os=TEXTS),
    said("forked", id=NUMBERS, part=TEXTS | st.sampled_from(("init", "session"))),
    said("exited", id=NUMBERS, code=NUMBERS),
    said("reply", value=VALUES, error=TEXTS),
)


def body_of(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a message with some bytes replaced, repeated or removed."""
    body = body_of(draw(MESSAGES))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 8)))
        body = body[:start] + draw(st.binary(max_size=4) | st.just(body[start:end] * 2)) + body[end:]
    return body


BODIES = MESSAGES.map(body_of) | mutated() | st.binary(max_size=64)
STREAMS = st.lists(BODIES.map(frame) | st.binary(max_size=8), max_size=5).map(b"".join)


@settings(max_examples=400)
@given(BODIES)
def test_every_decoder_gives_a_message_or_a_refusal(body: bytes) -> None:
    decode(body)
    decode_remote(body)
    with contextlib.suppress(ValueError, OverflowError):  # what is no JSON, or no msgpack
        decode_remote(msgspec.msgpack.encode(msgspec.json.decode(body)))


@settings(max_examples=200)
@given(STREAMS, st.lists(st.integers(0, 400), max_size=8))
def test_a_stream_in_pieces_reads_as_the_stream_at_once(stream: bytes, cuts: list[int]) -> None:
    asyncio.run(read(stream, cuts))


@pytest.mark.parametrize("request_", REQUESTS)
@settings(max_examples=80)
@given(st.data())
def test_whatever_a_session_answers_the_host_has_an_answer_or_a_typed_failure(
    request_: Request, data: st.DataObject
) -> None:
    """Replayed ones too: each may come any number of times."""
    frames = data.draw(st.lists((ANSWERS[request_].map(body_of) | BODIES).map(frame), max_size=3))
    asyncio.run(ask(request_, b"".join(frames * data.draw(st.integers(1, 3)))))


def filled(before: bytes, unit: bytes, after: bytes) -> bytes:
    """Return a body as long as a frame allows."""
    return before + unit * ((wire.MAX_FRAME - len(before) - len(after)) // len(unit)) + after


SHOWN = b'{"type":"done","id":1,"status":"ok","outputs":[{"output_type":'
HUGE = {
    "nothing": filled(b"{", b" ", b"}"),
    "deep": filled(b'{"type":"call","id":1,"name":"x","arguments":', b"[", b""),
    "deep and named": filled(b'{"type":"listing","files":', b'{"a":', b""),
    "a number without end": filled(b'{"type":"refused","errno":', b"1", b"}"),
    "a fraction without end": filled(b'{"type":"refused","errno":0.', b"1", b"}"),
    "the same name": filled(b"{", b'"type":"ready",', b'"type":"ready"}'),
    "names of nothing": filled(b'{"type":"ready"', b',"a":1', b"}"),
    "one text": filled(b'{"type":"failed","reason":"', b"x", b'"}'),
    "one text in escapes": filled(b'{"type":"failed","reason":"', b"\\ud83d\\ude00", b'"}'),
    "strings": filled(SHOWN + b'"error","ename":"","evalue":"","traceback":[', b'"a",', b'""]}]}'),
    "outputs": filled(SHOWN[:-15], b'{"output_type":"stream","name":"stdout","text":""},', b"]}"),
    "a dictionary": SHOWN + b'"execute_result","data":{' + b",".join(b'"%x":""' % n for n in range(700_000)) + b"}}]}",
    "lists in arguments": filled(b'{"type":"call","id":1,"name":"x","arguments":{"a":[', b"[],", b"[]]}}"),
    "files": filled(b'{"type":"listing","files":[', b'{"path":"a","size":1},', b'{"path":"a","size":1}]}'),
    "a chunk": filled(b'{"type":"chunk","last":false,"data":"', b"AAAA", b'"}'),
}


@pytest.mark.parametrize("body", HUGE.values(), ids=HUGE.keys())
def test_a_frame_costs_no_more_than_its_length(body: bytes) -> None:
    """Processor time and memory are in proportion to the largest frame, whatever is in it."""
    assert 0.7 * wire.MAX_FRAME < len(body) <= wire.MAX_FRAME
    tracemalloc.start()
    decode(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * wire.MAX_FRAME
    started = time.process_time()
    decode(body)
    assert time.process_time() - started < 2.0


async def test_a_slow_frame_meets_its_deadline() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    loop = asyncio.get_running_loop()
    theirs.send(wire.HEADER.pack(1000))

    def trickle() -> None:
        if theirs.fileno() >= 0:
            theirs.send(b" ")
            loop.call_later(0.002, trickle)

    trickle()
    started = loop.time()
    with pytest.raises(TimeoutError):
        await connection.receive(until=started + 0.3)
    assert 0.3 <= loop.time() - started < 5.0
    theirs.close()
    connection.close()


async def test_a_flood_of_frames_that_nobody_asked_for_takes_no_memory() -> None:
    """What was not asked for stays in the kernel's buffer, whatever its size."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    connection = Connection(ours)
    flood = frame(b'{"type":"ready"}' + b" " * (wire.MAX_FRAME - 16)) * 8
    writing = asyncio.create_task(asyncio.get_running_loop().sock_sendall(theirs, flood))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(8):
        assert await connection.receive(until=asyncio.get_running_loop().time() + 20.0) == wire.Ready()
    await writing
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < 3 * wire.MAX_FRAME + (8 << 20)
    theirs.close()
    with pytest.raises(ConnectionError):
        await connection.receive(until=asyncio.get_running_loop().time() + 20.0)
    connection.close()


SEEDS = (
    b'{"type":"ready"}',
    b'{"type":"failed","reason":"fork"}',
    b'{"type":"call","id":1,"name":"search","arguments":{"query":[1,-2.5e3,"a\\u00e9",null,true]}}',
    b'{"type":"done","id":1,"status":"ok","outputs":[{"output_type":"stream","name":"stdout","text":"a"}]}',
    b'{"type":"done","id":1,"status":"error","outputs":[{"output_type":"error","ename":"E","evalue":"","traceback":["a"]}]}',
    b'{"type":"done","id":1,"status":"ok","outputs":[{"output_type":"execute_result","data":{"text/plain":"1"}}]}',
    b'{"type":"chunk","data":"YWJj","last":true}',
    b'{"type":"stored"}',
    b'{"type":"listing","files":[{"path":"a","size":1}]}',
    b'{"type":"refused","errno":2}',
    b'{"type":"hello","os":"a"}',
    b'{"type":"exited","id":1,"code":-9}',
)
WORDS = ('\\"type\\":', '\\"id\\":1', "-1", "2147483648", "18446744073709551616", "1e999", "[", "{", "]", "}", "\\x0a")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris has no build for this machine or Python")
def test_a_fuzzer_that_is_guided_by_coverage_finds_nothing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS):
        for target in range(len(REQUESTS) + 2):
            body = frame(seed) if target == 1 else seed
            (corpus / f"{target}-{number}").write_bytes(bytes([target]) + body)
    words = tmp_path / "words"
    words.write_text("".join(f'"{word}"\n' for word in WORDS))
    done = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).parents[1] / "support" / "fuzz_by_coverage.py")),
            *("-max_total_time=120", "-max_len=4096", "-timeout=10"),
            *("-rss_limit_mb=1024", "-seed=1", "-print_final_stats=1"),
            *(f"-dict={words}", f"-artifact_prefix={tmp_path}/", str(corpus)),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=500,
        check=False,
    )
    print("\n".join(done.stderr.splitlines()[-8:]))
    assert done.returncode == 0, done.stderr[-6000:]
