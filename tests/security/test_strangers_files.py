"""Files that a stranger made: none of them opens another file of the host, loosens a limit, or breaks or fills its reader."""

import gzip
import json
import os
import resource
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_strangers
from cases import attack
from set_files import make_set

from lzero.agent.replay import replay
from lzero.agent.save import given_files
from lzero.config import Config, load_config
from lzero.data import table
from lzero.data.files import read_passages, read_tasks
from lzero.data.formats import base, columnar
from lzero.data.manifest import read_manifest as read_set
from lzero.data.stages.inputs import open_set
from lzero.errors import ConfigError, DataError, LzeroError, StoreError
from lzero.models import load_tokenizer, resolve
from lzero.repl import LocalPool
from lzero.store import (
    RunDirectory,
    read_saved,
    write_saved,
)
from lzero.store.inputs import read_inputs
from lzero.tools.corpus import corpus_files
from lzero.tools.keys import read_env_file
from lzero.tools.mcp_servers.specs import read_specs
from lzero.train.checkpoint import read_manifest
from lzero.types import Passage, Step, Task


@attack(90)
def test_a_saved_run_names_no_file_of_the_host(secret: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    up = os.path.relpath(secret, record / "given")
    files = (str(secret), "/proc/self/environ", up, "secret", f"given/{up}", "..", "")
    write_saved(record, make_strangers("1", files=files))
    (record / "given").mkdir()
    (record / "given" / "secret").symlink_to(secret)
    assert given_files(record, read_saved(record), ())[0] == ()
    (record / "episode.jsonl").rename(tmp_path / "elsewhere.jsonl")
    (record / "episode.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    with pytest.raises(StoreError, match="symbolic link"):
        read_saved(record)


@attack(91)
@pytest.mark.sandbox
async def test_a_replay_keeps_within_the_limits_of_its_user() -> None:
    saved = make_strangers("while True: pass", *("1",) * 1_000)
    done: list[tuple[int, str]] = []

    def on_step(number: int, step: Step, found: object) -> None:
        assert step.execution is not None
        done.append((number, step.execution.status))

    async with LocalPool() as pool:
        await replay(saved, pool, cell_s=0.3, max_cells=3, on_step=on_step)
    assert done == [(1, "timed_out"), (2, "ok"), (3, "ok")]


@attack(92)
def test_a_corpus_links_to_no_file_elsewhere(secret: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.md").write_text("text")
    (corpus / "b.md").symlink_to("a.md")
    assert len(corpus_files(corpus)) == 2
    (corpus / "c.md").symlink_to(secret)
    with pytest.raises(DataError, match="outside of the corpus"):
        corpus_files(corpus)


@attack(92)
@pytest.mark.parametrize("name", ["manifest.json", "tasks.parquet", "dropped.parquet"])
def test_a_set_links_to_no_file_elsewhere(name: str, tmp_path: Path) -> None:
    made = Path(make_set(tmp_path / "set", Task(id="a", question="q", answers=("a",))))
    (made / name).rename(tmp_path / name)
    (made / name).symlink_to(tmp_path / name)
    for read in (read_tasks, open_set, read_set):
        with pytest.raises(DataError, match="a link to a file elsewhere"):
            read(made)


@attack(93)
def test_a_set_whose_table_is_a_pipe_is_a_typed_error(tmp_path: Path) -> None:
    made = Path(make_set(tmp_path / "set", Task(id="a", question="q", answers=("a",))))
    (made / "tasks.parquet").unlink()
    os.mkfifo(made / "tasks.parquet")
    with pytest.raises(DataError, match="not a regular file"):
        open_set(made)


@attack(93)
@pytest.mark.parametrize(("name", "first"), [("tasks.jsonl.gz", ""), ("tasks.csv.gz", "question,answer\n")])
def test_blank_lines_without_number_are_a_typed_error(
    name: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty kilobytes unpack to fifty million lines."""
    monkeypatch.setattr(base, "MAX_BLANK_LINES", 1_000)
    with gzip.open(tmp_path / name, "wb") as file:
        file.write(first.encode() + b"\n" * 1_001)
    with pytest.raises(DataError, match="1,000 blank lines"):
        read_tasks(tmp_path / name)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "record": ("episode.jsonl", lambda directory: read_saved(directory)),
    "manifest": ("trainer.json", lambda directory: read_manifest(directory)),
    "configuration": ("config.toml", lambda directory: load_config(directory / "config.toml")),
    "run": ("config.toml", lambda directory: RunDirectory.open(directory)),
    "metrics": ("metrics.jsonl", lambda directory: RunDirectory(directory, Config()).read_metrics()),
    "set": ("manifest.json", lambda directory: read_set(directory)),
    "inputs": ("inputs.json", lambda directory: read_inputs(directory)),
    "servers": ("servers.json", lambda directory: read_specs(str(directory / "servers.json"))),
    "servers in TOML": ("servers.toml", lambda directory: read_specs(str(directory / "servers.toml"))),
    "keys": ("keys", lambda directory: read_env_file(directory / "keys")),
    "tasks": ("tasks.jsonl", lambda directory: read_tasks(directory / "tasks.jsonl")),
    "passages": ("a.jsonl.gz", lambda directory: list(read_passages(directory / "a.jsonl.gz"))),
    "documents": ("a.md", corpus_files),
    "model": ("config.json", lambda directory: resolve(str(directory))),
    "tokenizer": ("tokenizer.json", lambda directory: load_tokenizer(directory)),
}
CONTENTS = (
    b"a = " + b"[" * 100_000 + b"\n",
    b'{"a":' * 100_000 + b"\n",
    b"[" * 100_000 + b"\n\n",
    b"a = " + b"9" * 100_000 + b"\n",
    b'{"a": ' + b"9" * 100_000 + b"}\n",
    b'{"a": "\xff\xfe"}\n',
    b"[" + b"a." * 20_000 + b"a]\n",
)


@attack(93)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_breaks_readers_is_a_typed_error(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    file = tmp_path / name
    for content in CONTENTS:
        file.write_bytes(content)
        with suppress(LzeroError):  # some are valid for some readers
            read(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(LzeroError):
        read(tmp_path)


@attack(93)
@pytest.mark.parametrize(
    "reader", ["record", "manifest", "configuration", "metrics", "inputs", "servers", "keys", "model"]
)
def test_a_file_without_end_is_not_read(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    with (tmp_path / name).open("wb") as file:
        file.truncate(64 << 30)  # a hole: it takes no room
    with pytest.raises(LzeroError, match="larger than"):
        read(tmp_path)


KEYS = {
    "bare": "a." * 200_000 + "a = 1",
    "quoted": '"". ' * 200_000 + "a = 1",
    "escaped": r'"\"".' * 150_000 + "a = 1",
    "literal": "''." * 200_000 + "a = 1",
    "inline": "x = {" + "a." * 200_000 + "a = 1}",
    "table": "[" + "a." * 200_000 + "a]",
}


@pytest.mark.parametrize("text", KEYS.values(), ids=KEYS.keys())
@attack(93)
def test_a_key_of_parts_without_number_is_a_typed_error(text: str, tmp_path: Path) -> None:
    """Python's parser takes the square of their number, or more: minutes for 20,000."""
    for reader in ("configuration", "servers in TOML"):
        name, read = READERS[reader]
        (tmp_path / name).write_text(text)
        start = time.thread_time()
        with pytest.raises(LzeroError, match="has more than 32 parts"):
            read(tmp_path)
        assert time.thread_time() - start < 2.0


@attack(93)
def test_a_configuration_of_problems_without_number_names_some(tmp_path: Path) -> None:
    name, read = READERS["configuration"]
    (tmp_path / name).write_text("".join(f"[t{number}]\n" for number in range(50_000)))
    start = time.thread_time()
    with pytest.raises(ConfigError, match=r"unknown key 't0'[^$]*\nand 49,980 more problems$"):
        read(tmp_path)
    assert time.thread_time() - start < 10.0  # it took minutes to find the nearest key for each


@attack(93)
@pytest.mark.parametrize("reader", ["set", "metrics", "model", "tokenizer"])
def test_a_file_of_values_without_number_is_a_typed_error(reader: str, tmp_path: Path) -> None:
    """A value of three bytes takes 64 in memory."""
    name, read = READERS[reader]
    sizes = {"set": 3_000_000, "metrics": 120_000_000, "model": 9_000_000, "tokenizer": 40_000_000}
    with (tmp_path / name).open("wb") as file:
        file.write(b'{"a": [')
        for _ in range(sizes[reader] // 3_000_000):
            file.write(b"{}," * 1_000_000)
        file.write(b"{}]}\n")
    with pytest.raises(LzeroError, match=r"holds more than [\d,]+ values"):
        read(tmp_path)


@attack(93)
def test_a_text_of_parquet_that_is_not_utf8_is_a_typed_error(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 2)), pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"question": text, "answer": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="not UTF-8"):
        read_tasks(tmp_path / "t.parquet")


@attack(93)
def test_a_small_file_of_tasks_that_decodes_to_much_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "DECODE_BYTES", 256 << 20)
    file = tmp_path / "t.parquet"
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 10, pa.int32()), ["x" * (60 << 20)])
    pq.write_table(pa.table({"question": long, "answer": ["a"] * 10}), file, compression="zstd")
    assert file.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"t\.parquet cannot be read: decoding it takes more than 268,435,456 bytes"):
        read_tasks(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (64 << 10)


def json_of(row: dict[str, object]) -> bytes:
    return json.dumps(row).encode() + b"\n"


MANY: dict[str, Callable[[Path, int], object]] = {
    "t.jsonl": lambda file, number: file.write_bytes(json_of({"question": "q", "answer": "a", "x": [{}] * number})),
    "t.json": lambda file, number: file.write_bytes(json_of({"question": "q", "answer": "a", "x": [{}] * number})),
    "t.csv": lambda file, number: file.write_text("question,answer\nq,a" + ",b" * number),
    "t.parquet": lambda file, number: pq.write_table(
        rows_of_lists(pa.array([{"a": False}] * number), pa.ListArray), file
    ),
    "t.arrow": lambda file, number: write_arrow(
        rows_of_lists(pa.array([{}] * number, pa.struct([])), pa.ListArray), file
    ),
}


def rows_of_lists(values: pa.Array, kind: type[pa.Array]) -> pa.Table:
    return pa.table({"question": ["q"], "answer": ["a"], "x": kind.from_arrays([0, len(values)], values)})


def write_arrow(table: pa.Table, file: Path) -> None:
    with pa.ipc.new_file(file, table.schema) as opened:
        opened.write_table(table)


@attack(93)
@pytest.mark.parametrize("name", MANY)
def test_a_row_of_values_without_number_is_a_typed_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packed file of 61 kB held a row of 64 MB, whose values took 1.6 GB."""
    monkeypatch.setattr(base, "MAX_ROW_VALUES", 1_000)
    MANY[name](tmp_path / name, 900)
    with suppress(DataError):  # the CSV has more values than columns
        assert len(read_tasks(tmp_path / name).tasks) == 1
    MANY[name](tmp_path / name, 1_100)
    with pytest.raises(DataError, match=r"(row|line) 1 of .* holds more than the 1,000 values"):
        read_tasks(tmp_path / name)


@attack(93)
@pytest.mark.parametrize("kind", [pa.ListArray, pa.LargeListArray])
def test_a_text_counts_as_often_as_a_row_refers_to_it(
    kind: type[pa.Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MAX_ROW_BYTES", 10_000)
    packed = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), ["x" * 1_000])
    write_arrow(rows_of_lists(packed, kind), tmp_path / "t.arrow")
    with pytest.raises(DataError, match=r"is larger than the 10,000 bytes that a row may have"):
        read_tasks(tmp_path / "t.arrow")


@attack(93)
def test_a_type_of_which_a_few_bytes_are_many_values_is_not_read(tmp_path: Path) -> None:
    packed = pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), ["x"])
    write_arrow(pa.table({"question": ["q"], "answer": ["a"], "x": packed}), tmp_path / "t.arrow")
    with pytest.raises(DataError, match=r"has a column of the type 'run_end_encoded"):
        read_tasks(tmp_path / "t.arrow")


@attack(93)
def test_a_set_of_values_without_number_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(id="a", question="q", answers=("a",), passages=(Passage(title="", text=""),) * 1_000)
    made = make_set(tmp_path / "set", task)
    assert open_set(Path(made)).rows == 1
    monkeypatch.setattr(table, "MAX_BATCH_VALUES", 2_000)
    with pytest.raises(DataError, match=r"1 of its rows hold 3,\d+ values"):
        open_set(Path(made))
