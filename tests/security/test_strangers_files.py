"""Files that a stranger made: none of them opens another file of the host, loosens a limit, or breaks or fills its reader."""

import json
import os
import random
import resource
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_cell, make_episode, make_run, make_task
from cases import attack
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lzero.agent import chat_template
from lzero.agent.renderer import Renderer
from lzero.agent.replay import replay
from lzero.agent.save import given_files
from lzero.config import Config, load_config
from lzero.data import rows
from lzero.data.files import read_passages, read_tasks
from lzero.errors import DataError, LzeroError, ModelError, StoreError
from lzero.models import ASSETS, TURN_END, build_tokenizer, load_tokenizer, resolve
from lzero.repl import LocalPool
from lzero.rollout.budgets import fit_budgets
from lzero.store import (
    Record,
    RunDirectory,
    SavedEpisode,
    find_record,
    list_episodes,
    parquet,
    read_episodes,
    read_records,
    read_saved,
    write_saved,
)
from lzero.store.inputs import read_inputs
from lzero.tools.corpus import corpus_files
from lzero.tools.keys import read_env_file
from lzero.tools.mcp_servers.specs import read_specs
from lzero.train.checkpoint import Manifest, Progress, read_manifest
from lzero.train.export import export
from lzero.types import Budgets, Reward, Step

TEXT = "what is in a file of the host"


def recorded(*cells: str, files: tuple[str, ...] = (), cell_s: float = 1e9) -> SavedEpisode:
    """Return a record as a stranger may write it, which claims that its cells went well."""
    budgets = Budgets(max_steps=10**9, max_tokens=100, cell_s=cell_s)
    episode = make_episode(*map(make_cell, cells), name="t/0", id="e", seed=2**63, budgets=budgets, answer="a")
    return SavedEpisode(task=make_task(files=files), episode=episode, model="m")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(TEXT)
    return file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ASSETS / "nano", tmp_path / "model"))


@attack(90)
def test_a_saved_run_names_no_file_of_the_host(secret: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    up = os.path.relpath(secret, record / "given")
    files = (str(secret), "/proc/self/environ", up, "secret", f"given/{up}", "..", "")
    write_saved(record, recorded("1", files=files))
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
    saved = recorded("while True: pass", *("1",) * 1_000)
    done: list[tuple[int, str]] = []

    def on_step(number: int, step: Step, found: object) -> None:
        assert step.execution is not None
        done.append((number, step.execution.status))

    async with LocalPool() as pool:
        await replay(saved, pool, cell_s=0.3, max_cells=3, on_step=on_step)
    assert done == [(1, "timed_out"), (2, "ok"), (3, "ok")]


def name_shard(model: Path, secret: Path, name: str) -> None:
    index = {"weight_map": {"a": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def link(name: str) -> Callable[[Path, Path], None]:
    def make(model: Path, secret: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(secret)

    return make


MODELS: dict[str, Callable[[Path, Path], object]] = {
    "shard above": lambda model, secret: name_shard(model, secret, "../secret"),
    "shard by path": lambda model, secret: name_shard(model, secret, str(secret)),
    **{
        f"link {name}": link(name)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "x")
    },
    "adapter": lambda model, secret: (model / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(secret.parent)})
    ),
}


@attack(92)
@pytest.mark.parametrize("change", MODELS.values(), ids=MODELS.keys())
def test_a_model_names_no_file_elsewhere(change: Callable[[Path, Path], object], model: Path, secret: Path) -> None:
    change(model, secret)
    with pytest.raises(ModelError) as caught:
        resolve(str(model))
    assert TEXT not in str(caught.value)


def test_a_snapshot_of_the_hub_links_to_its_own_store(model: Path, tmp_path: Path) -> None:
    snapshot, store = tmp_path / "models--a--b" / "snapshots" / "1f", tmp_path / "models--a--b" / "blobs"
    snapshot.parent.mkdir(parents=True)
    model.rename(store)
    snapshot.mkdir()
    for file in store.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert resolve(str(snapshot)) == snapshot
    (tmp_path / "mine").symlink_to(snapshot)
    assert load_tokenizer(tmp_path / "mine").eos_token


@attack(92)
@pytest.mark.parametrize("name", ["../secret", "secret", "sub/../../secret"])
def test_a_checkpoint_names_no_file_elsewhere(name: str, secret: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    (checkpoint / "sub").mkdir(parents=True)
    (checkpoint / "secret").symlink_to(secret)
    manifest = Manifest(progress=Progress(), score=None, config={}, files={name: len(TEXT)})
    (checkpoint / "trainer.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(StoreError, match="not in the checkpoint's directory"):
        read_manifest(checkpoint)


@attack(93)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[]", '{"rope_parameters": [", "]}', '{"rope_parameters": "rope_theta"}']
)
def test_a_checkpoint_that_breaks_its_export_is_a_typed_error(file: str, text: str, tmp_path: Path) -> None:
    """Or is exported: not all of its settings are read."""
    run = make_run(tmp_path / "run")
    checkpoint = run.checkpoints / "update-000001"
    checkpoint.mkdir()
    texts = {"config.json": "{}", "tokenizer_config.json": "{}", file: text}
    for name, content in texts.items():
        (checkpoint / name).write_text(content)
    sizes = {name: len(content) for name, content in texts.items()}
    manifest = Manifest(progress=Progress(), score=None, config={}, files=sizes)
    (checkpoint / "trainer.json").write_bytes(msgspec.json.encode(manifest))
    with suppress(ModelError):
        export(run.path, tmp_path / "model")
        assert text.startswith("{")


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


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "record": ("episode.jsonl", lambda directory: read_saved(directory)),
    "manifest": ("trainer.json", lambda directory: read_manifest(directory)),
    "configuration": ("config.toml", lambda directory: load_config(directory / "config.toml")),
    "run": ("config.toml", lambda directory: RunDirectory.open(directory)),
    "metrics": ("metrics.jsonl", lambda directory: RunDirectory(directory, Config()).read_metrics()),
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
    monkeypatch.setattr(rows, "DECODE_BYTES", 256 << 20)
    file = tmp_path / "t.parquet"
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 10, pa.int32()), ["x" * (60 << 20)])
    pq.write_table(pa.table({"question": long, "answer": ["a"] * 10}), file, compression="zstd")
    assert file.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"t\.parquet cannot be read: decoding it takes more than 268,435,456 bytes"):
        read_tasks(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (64 << 10)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Return a run with one finished episode."""
    run = make_run(tmp_path / "run")
    saved = recorded("1")
    episode = msgspec.structs.replace(saved.episode, seed=7)
    reward = Reward(score=1.0, per_step=(1.0,), parts={"qa": (1.0,)})
    record = Record(task=saved.task, episodes=(episode,), rewards=(reward,), dropped="all_one")
    run.write_records([record], phase="eval", update=0)
    return run


def read_run(path: Path) -> None:
    """Read a run as `lzero show`, `lzero replay` and a resumed run do."""
    list(list_episodes(path))
    find_record(path, "e")
    list(read_episodes(path))


def table_of(run: RunDirectory, name: str) -> Path:
    return run.path / "episodes" / name / "eval-000000.parquet"


def swap(file: Path, column: str, values: object, rows: int = 1) -> None:
    """Write a table of a run again, with `rows` times its first row, and other values in one column."""
    table = pq.read_table(file, partitioning=None).take(pa.array([0] * rows))
    index = table.schema.get_field_index(column)
    pq.write_table(table.set_column(index, column, pa.array(values)), file, compression="zstd")


def swap_inside(file: Path, column: str, field: str, value: object) -> None:
    """Write a table of a run again, with another value of a field in a column of structs."""
    table = pq.read_table(file, partitioning=None)
    rows = table.to_pylist()
    rows[0][column] = (rows[0][column] or {}) | {field: value}
    pq.write_table(pa.Table.from_pylist(rows, table.schema), file)


def repeated(text: str, times: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), [text])


def list_without_end() -> pa.StructArray:
    """Return a prompt of ten million ids."""
    zeros = pa.array(np.zeros(10_000_000, np.int64))
    ids = pa.ListArray.from_arrays([0, len(zeros)], zeros)
    return pa.StructArray.from_arrays([pa.array([0]), ids, pa.array(["[]"])], names=["keep", "new_ids", "new_messages"])


def added(file: Path, **values: object) -> None:
    """Write a table of a run again, with its first row once more, changed, before it."""
    table = pq.read_table(file, partitioning=None)
    more = table.slice(0, 1)
    for name, value in values.items():
        field = table.schema.field(name)
        more = more.set_column(table.schema.get_field_index(name), field, pa.array([value], field.type))
    pq.write_table(pa.concat_tables([more, table]), file, compression="zstd")


@attack(93)
def test_an_episode_is_read_without_the_steps_of_others(run: RunDirectory) -> None:
    """These take no memory: objects of three million numbers would be 100 MB."""
    (expected,) = read_records(run.path)
    added(table_of(run, "episodes"), episode_id="other", index=1)
    more = {"keep": 0, "new_ids": np.zeros(3_000_000, np.int64), "new_messages": "[]"}
    added(table_of(run, "steps"), episode_id="other", prompt=more)
    tracemalloc.start()
    try:
        record = find_record(run.path, "e")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert record == expected
    assert peak < 20 << 20
    assert find_record(run.path, "nobody") is None
    assert find_record(run.path, "\udcff") is None


MANY_VALUES: dict[str, dict[str, object]] = {
    "tokens": {"prompt": {"keep": 0, "new_ids": np.zeros(2_000, np.int64), "new_messages": "[]"}},
    "lists in JSON": {"tool_calls": '[{"name":"x","arguments":{},"result":[' + "[]," * 2_000 + "[]]}]"},
    "versions": {"completion": {"versions": [[0, 0]] * 1_000}},
}


@attack(93)
@pytest.mark.parametrize("values", MANY_VALUES.values(), ids=MANY_VALUES)
def test_an_episode_of_more_values_than_memory_holds_is_a_store_error(
    values: dict[str, object], run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_VALUES", 2_000)
    assert find_record(run.path, "e") is not None
    added(table_of(run, "steps"), **values)
    with pytest.raises(
        StoreError, match=r"steps/eval-000000\.parquet: the rows of episode_id = 'e' hold more than 2,000 values\. Copy"
    ):
        find_record(run.path, "e")


BOMBS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a text for many rows": (
        "episodes",
        lambda file: swap(file, "task_id", repeated("x" * 100_000, 10_000), rows=10_000),
    ),
    "a long text": ("episodes", lambda file: swap(file, "answer", ["x" * (40 << 20)])),
    "a list without end": ("steps", lambda file: swap(file, "prompt", list_without_end())),
    "many rows": ("rewards", lambda file: swap(file, "episode_id", repeated("e", 10**6), rows=10**6)),
}


@attack(93)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_table_that_decodes_to_much_is_a_store_error(bomb: str, run: RunDirectory) -> None:
    name, change = BOMBS[bomb]
    change(table_of(run, name))
    assert table_of(run, name).stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        StoreError, match=rf"{name}/eval-000000\.parquet: (it holds more than|decoding it takes too much)"
    ):
        read_run(run.path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (64 << 10)


@attack(93)
@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("episodes", "status", pa.nulls(1, pa.string())),
        ("episodes", "status", ["\x1b[2Jwon"]),
        ("episodes", "status", ["failed"]),
        ("episodes", "index", ["first"]),
        ("steps", "tool_calls", ["[" * 100_000]),
        ("steps", "timings", pa.nulls(1, pa.string())),
        ("rewards", "score", pa.nulls(1, pa.float64())),
        ("rewards", "parts", [["qa", "other"]]),
        ("tasks", "metadata", [[]]),
    ],
)
def test_a_value_that_no_record_has_is_a_store_error(name: str, column: str, value: object, run: RunDirectory) -> None:
    swap(table_of(run, name), column, value)
    with pytest.raises(StoreError, match=r"eval-000000\.parquet"):
        read_run(run.path)


@attack(93)
@pytest.mark.parametrize(
    ("name", "column", "field", "value"),
    [
        ("episodes", "sampling", "stop", ["a", None]),
        ("episodes", "failure", "kind", "engine"),
        ("steps", "prompt", "new_ids", [None]),
        ("steps", "completion", "logprobs", [-1.0, -1.0]),
        ("steps", "execution", "outputs", None),
        ("steps", "notepad", "todos", "[{}]"),
    ],
)
def test_a_value_inside_of_a_struct_that_no_record_has_is_a_store_error(
    name: str, column: str, field: str, value: object, run: RunDirectory
) -> None:
    swap_inside(table_of(run, name), column, field, value)
    with pytest.raises(StoreError, match=r"eval-000000\.parquet"):
        read_run(run.path)


@attack(93)
@pytest.mark.parametrize(
    "line", ["{}", '{"phase": "eval"}', '{"phase": "eval", "update": "0"}', '{"phase": [], "update": 0}']
)
def test_a_line_of_metrics_that_no_run_has_is_a_store_error(line: str, run: RunDirectory) -> None:
    (run.path / "metrics.jsonl").write_text(f"{line}\n")
    for read in (run.score, run.rewind):
        with pytest.raises(StoreError, match=r"metrics\.jsonl: line 1 has no text `phase`"):
            read(0)
    (run.path / "metrics.jsonl").write_text('{"phase": "eval", "update": 0}\n')
    (table_of(run, "steps").parent / "other.parquet").touch()
    assert run.score(0) is None
    run.rewind(0)


@attack(93)
def test_a_damaged_table_is_a_store_error(run: RunDirectory) -> None:
    draw = random.Random(7)
    file = table_of(run, "steps")
    whole = file.read_bytes()
    for _ in range(4):
        data = bytearray(whole)
        for _ in range(3):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
        with suppress(StoreError):
            list(read_episodes(run.path))
    file.write_bytes(whole)
    assert list(read_episodes(run.path))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(StoreError, match="not a regular file"):
        list(read_episodes(run.path))


@attack(93)
@pytest.mark.parametrize(
    "header", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":[]}', b'{"a":{"data_offsets":[0]}}', b"\xff"]
)
def test_a_header_of_weights_that_breaks_readers_is_a_typed_error(header: bytes, model: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelError, match="not a safetensors file"):
        resolve(str(model))


@attack(93)
def test_a_model_of_layers_without_number_is_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))
    with pytest.raises(ModelError, match="not of one model"):
        resolve(str(model))


@attack(93)
@pytest.mark.parametrize("tokens", [-1, 0, "all", 1e300, 10**30, None, True])
def test_a_checkpoint_asks_for_no_budget_beyond_its_model(tokens: object, model: Path) -> None:
    (model / "trainer.json").write_text(
        json.dumps({"config": {"agent": {"max_tokens": tokens, "response_tokens": tokens}}})
    )
    agent = fit_budgets(
        Config().model_copy(update={"model": Config().model.model_copy(update={"path": str(model)})})
    ).agent
    assert isinstance(agent.max_tokens, int)
    assert 0 < agent.max_tokens <= 4_096
    assert 0 < agent.response_tokens <= 4_096


BASE: dict[str, object] = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
}
WORDS: dict[str, object] = {"type": "WordLevel", "vocab": {"a": 0, TURN_END: 1}, "unk_token": "a"}
BACKTRACKING: dict[str, object] = {
    "type": "Split",
    "pattern": {"Regex": "( +)+$"},
    "behavior": "Isolated",
    "invert": False,
}


@attack(94)
@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"pre_tokenizer": BACKTRACKING | {"pattern": {"Regex": "("}}},
        {"model": {"type": "Unigram", "unk_id": 5, "vocab": [["a", -1.0]]}},
        {"model": WORDS | {"unk_token": "none"}},
    ],
    ids=["panics", "broken pattern", "broken vocabulary", "knows no word"],
)
def test_a_tokenizer_that_panics_or_fails_is_a_model_error(part: dict[str, object], model: Path) -> None:
    (model / "tokenizer.json").write_text(json.dumps(BASE | {"model": WORDS} | part))
    with pytest.raises(ModelError):
        Renderer(load_tokenizer(model))


@attack(94)
@pytest.mark.parametrize(
    "operation",
    [
        "'x' * 10**11",
        "'%0999999999d' % 1",
        "messages[0].content * 10**9",
        "(range(99999) | list) * 10**6",
        "'x' | center(10**10)",
        "messages | length ** (10 ** (10 ** 10))",
        "(messages | length + 9) ** (10 ** 9)",
    ],
)
def test_a_template_with_one_huge_operation_is_a_model_error(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "RENDER_S", 1.0)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = f"{{% set x = {operation} %}}{tokenizer.chat_template}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=r"the chat template fails: (Memory|Timeout|Overflow|Recursion)Error"):
        Renderer(tokenizer)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (64 << 10)


@attack(94)
def test_a_pattern_that_gives_up_on_a_text_is_a_model_error() -> None:
    tokenizer = build_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [BACKTRACKING, state["pre_tokenizer"]]}
    hostile = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token=TURN_END,
        additional_special_tokens=["<|im_start|>"],
        chat_template=tokenizer.chat_template,
    )
    renderer = Renderer(hostile)
    with pytest.raises(ModelError, match="cannot encode"):
        renderer.start(None, " " * 40 + "!")
