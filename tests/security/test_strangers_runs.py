"""Runs of strangers: what no run writes is a StoreError, within bounds of memory and time."""

import os
import random
import resource
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_run, make_strangers
from cases import attack

from lzero.errors import StoreError
from lzero.store import (
    Record,
    RunDirectory,
    find_record,
    list_episodes,
    parquet,
    read_episodes,
    read_records,
    read_saved,
    saved,
    write_saved,
)
from lzero.types import Reward


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Return a run with one finished episode."""
    run = make_run(tmp_path / "run")
    saved = make_strangers("1")
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


@attack(90)
@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "verdicts.jsonl", "config.toml", "episodes/steps", "episodes/tasks/x.parquet"]
)
def test_a_run_links_to_no_file_elsewhere(name: str, run: RunDirectory, secret: Path) -> None:
    link = run.path / name
    if link.exists():
        link.rename(secret.parent / "elsewhere")
        secret = secret.parent / "elsewhere"
    link.symlink_to(secret)
    for read in (read_run, RunDirectory.open, lambda path: [*read_records(path)]):
        with pytest.raises(StoreError, match=f"{name} is a symbolic link to a file outside of the run"):
            read(run.path)


def test_a_run_may_keep_its_checkpoints_elsewhere(run: RunDirectory, tmp_path: Path) -> None:
    run.checkpoints.rename(tmp_path / "elsewhere")
    run.checkpoints.symlink_to(tmp_path / "elsewhere")
    RunDirectory.open(run.path)
    read_run(run.path)


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
def test_a_saved_episode_that_decodes_to_much_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three bytes of JSON may take 64 of memory. Commas in a text cost nothing."""
    file = write_saved(tmp_path, msgspec.structs.replace(make_strangers("','" * 20_000), config={"x": [{}] * 5_000}))
    assert read_saved(file).config
    monkeypatch.setattr(saved, "MAX_VALUES", 11_000)
    assert read_saved(file).config
    monkeypatch.setattr(saved, "MAX_VALUES", 9_000)
    with pytest.raises(StoreError, match="has more than 9,000 values"):
        read_saved(file)


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
        *(("rewards", "score", [value]) for value in (1e308, float("nan"), -0.5)),
        ("rewards", "reward", [1e308]),
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
