"""Protocol and broker: whatever a session says over its one socket is its own output, and harms nobody else."""

import ast
import asyncio
import base64
import json
import os
import pickle
import resource
import struct
import time
from pathlib import Path

import psutil
import pytest
from cases import attack
from repl_sessions import FRAMES, Spec, error_of, run, value

import lzero
from lzero.errors import ReplDied
from lzero.repl import LocalPool, LocalRepl, session
from lzero.types import Json, Stream

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


SEARCH = Spec("search", ("query",), "search(query) -> str")


async def echo(name: str, arguments: dict[str, Json]) -> Json:
    return arguments.get("query", "")


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


MALFORMED = {
    "a negative length": struct.pack(">i", -1) + b"x",
    "a huge length": struct.pack(">Q", 2**63) + b"x",
    "no length": struct.pack(">I", 0),
    "half a frame": struct.pack(">I", 100) + b"{",
    "not UTF-8": framed(b'{"type":"call","id":1,"name":"\xff","arguments":{}}'),
    "not a number": framed(b'{"type":"call","id":1,"name":"search","arguments":{"query":NaN}}'),
    "infinite": framed(b'{"type":"call","id":1,"name":"search","arguments":{"query":-Infinity}}'),
    "too large a number": framed(b'{"type":"call","id":1,"name":"search","arguments":{"query":1e999}}'),
    "a million deep": framed(b'{"type":"call","id":1,"name":"search","arguments":{"query":' + b"[" * 1_000_000),
    "half a character": framed(b'{"type":"call","id":1,"name":"\\ud800","arguments":{}}'),
    "a text for a number": framed(b'{"type":"call","id":"1","name":"search","arguments":{}}'),
    "two types": framed(b'{"type":"ready","type":"rule"}'),
    "outputs without number": framed(
        json.dumps({"type": "done", "id": 1, "status": "ok", "outputs": [{"output_type": "reward"}] * 1000}).encode()
    ),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
@attack(55)
async def test_what_is_no_frame_ends_its_session(pool: LocalPool, repl: LocalRepl, data: bytes) -> None:
    victim = await pool.open([SEARCH], echo, seed=0)
    before = psutil.Process().memory_info().rss
    short = f"{FRAMES}\nwire.sendall({data[:200]!r} + b'[' * {max(0, len(data) - 200)})\ntime.sleep(60)"
    started = time.monotonic()
    execution = await victim.run(short, deadline_s=0.3)
    assert (execution.status, execution.outputs) == ("killed", ())
    assert time.monotonic() - started < 8.0
    assert psutil.Process().memory_info().rss - before < 64 << 20
    with pytest.raises(ReplDied):
        await victim.run("1", deadline_s=5.0)
    assert await value(repl, "6 * 7") == "42"
    await victim.close()


@attack(55)
async def test_strange_but_valid_frames_stay_within_bounds(pool: LocalPool, repl: LocalRepl) -> None:
    asked: list[int] = []

    async def measure(name: str, arguments: dict[str, Json]) -> Json:
        asked.append(len(arguments))
        return len(arguments)

    victim = await pool.open([SEARCH], measure, seed=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = f"""{FRAMES}
body = b'{{"type":"call","id":1,"name":"search","arguments":{{"query":[' + b"[]," * 2_700_000 + b"[]]}}}}"
wire.sendall(struct.pack(">I", len(body)) + body)
time.sleep(60)
"""
    execution = await victim.run(many, deadline_s=2.0)
    assert execution.status in ("timed_out", "killed")
    assert asked == []  # refused by its size, before anything is made of it
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10 < 64 << 20
    assert await value(repl, "6 * 7") == "42"
    await victim.close()


FORGERIES = {
    "another cell is done": 'send(type="done", id=999, status="ok", outputs=[])',
    "a second start": 'send(type="ready")',
    "a failed start": 'send(type="failed", reason="none")',
    "a call out of turn": 'send(type="call", id=77, name="search", arguments={})',
    "a call again": (
        'search("a")\nsend(type="call", id=1, name="search", arguments={"query": "a"})'  # the first was number 1
    ),
    "a call before the first": 'send(type="call", id=0, name="search", arguments={})',
    "a reward": 'send(type="reward", value=1.0)',
    "a reward beside the outputs": 'send(type="done", id=1, status="ok", outputs=[], reward=1.0)',
    "the host's own words": 'send(type="reply", value="x", error=None)',
    "words of the zygote": 'send(type="exited", id=1, code=0)',
    "more text than a cell puts out": (
        'send(type="done", id=1, status="ok", outputs=[{"output_type": "stream", "name": "stdout", "text": "x" * 1_000_000}])'
    ),
    "more images than a cell puts out": (
        'send(type="done", id=1, status="ok", outputs=[{"output_type": "display_data", "data": {"image/png": "x" * 3_000_000}}])'
    ),
    "another status": 'send(type="done", id=1, status="finished", outputs=[])',
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
@attack(56)
async def test_a_forged_frame_ends_its_session(pool: LocalPool, repl: LocalRepl, forgery: str) -> None:
    victim = await pool.open([SEARCH], echo, seed=0)
    execution = await victim.run(f"{FRAMES}\n{forgery}\ntime.sleep(60)", deadline_s=20.0)
    assert (execution.status, execution.outputs) == ("killed", ())
    assert execution.reason.startswith("protocol: ")
    assert await value(repl, "6 * 7") == "42"
    await victim.close()


@attack(56)
async def test_frames_that_come_early_are_the_sessions_own_outputs(pool: LocalPool, repl: LocalRepl) -> None:
    victim = await pool.open([SEARCH], echo, seed=0)
    forge = f"""{FRAMES}
for number in (1, 2):
    shown = {{"output_type": "stream", "name": "stdout", "text": f"forged {{number}}"}}
    send(type="done", id=number, status="ok", outputs=[shown])
"""
    for number, code in ((1, forge), (2, "print('honest')")):
        execution = await run(victim, code)
        assert execution.outputs == (Stream(name="stdout", text=f"forged {number}"),)
        assert await value(repl, "6 * 7") == "42"
    # What the first cell really put out comes now, and the session is out of step with its own lies.
    execution = await run(victim, "print('honest')")
    assert (execution.status, execution.outputs) == ("killed", ())
    await victim.close()


class Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.file),)


@attack(57)
async def test_what_is_serialised_comes_through_as_the_text_it_is(pool: LocalPool, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    received: list[Json] = []

    async def keep(name: str, arguments: dict[str, Json]) -> Json:
        received.append(arguments["query"])
        return arguments["query"]

    victim = await pool.open([SEARCH], keep, seed=0)
    texts = [
        base64.b64encode(bomb).decode(),
        bomb.decode("latin-1"),
        f"!!python/object/apply:os.mkdir ['{tmp_path}/exploded']",
        '{"py/reduce": [{"py/function": "os.mkdir"}]}',
    ]
    assert await value(victim, f"[search(text) for text in {texts!r}] == {texts!r}") == "True"
    assert received == texts
    assert error_of(await run(victim, f"search({bomb!r})")).startswith("TypeError")  # bytes are not JSON
    for data in (framed(bomb), bomb):
        execution = await victim.run(f"{FRAMES}\nwire.sendall({data!r})\ntime.sleep(60)", deadline_s=1.0)
        assert execution.status == "killed"
        await victim.close()
        victim = await pool.open([SEARCH], keep, seed=0)
    await victim.close()
    assert list(tmp_path.iterdir()) == []


@attack(57)
async def test_no_module_that_hears_a_session_can_decode_objects() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "torch", "numpy", "jsonpickle"}
    calls = {"eval", "exec", "compile", "__import__"}
    for part in ("repl", "agent", "tools"):
        for file in sorted((Path(lzero.__file__).parent / part).glob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                assert not forbidden & {name.partition(".")[0] for name in names}, file
                assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls), (
                    file
                )


FLOODS = {
    "calls": """
number = 0
import threading
def read():
    while True: wire.recv(1 << 20)
threading.Thread(target=read, daemon=True).start()
while True:
    number += 1
    send(type="call", id=number, name="search", arguments={"query": "x"})
""",
    "bytes": "while True: wire.sendall(struct.pack('>I', 8 << 20) + b' ' * (8 << 20))",
    "a trickle": """
wire.sendall(struct.pack(">I", 1000))
while True:
    try:
        wire.sendall(b" ")
        time.sleep(0.02)
    except BaseException: pass
""",
    "half closed": "wire.shutdown(socket.SHUT_WR)\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass",
    "calls whose answers are never read": """
for number in range(1, 10_000):
    send(type="call", id=number, name="search", arguments={"query": "x" * 100_000})
""",
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
@attack(58)
async def test_floods_and_trickles_end_and_others_go_on(
    pool: LocalPool, repl: LocalRepl, flood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_SEND_TIMEOUT_S", 2.0)
    victim = await pool.open([SEARCH], echo, seed=0)
    before = psutil.Process().memory_info().rss
    started = time.monotonic()
    flooding = asyncio.create_task(victim.run(FRAMES + flood, deadline_s=0.5))
    answered = 0
    while not flooding.done():
        asked = time.monotonic()
        assert await value(repl, "6 * 7") == "42"
        assert time.monotonic() - asked < 3.0
        answered += 1
    assert (await flooding).status in ("killed", "timed_out")
    assert time.monotonic() - started < 10.0
    assert answered > 3
    assert psutil.Process().memory_info().rss - before < 100 << 20
    await victim.close()
