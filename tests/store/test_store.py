"""The run directory and the episodes in it."""

import base64
import logging
import os
import resource
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest
from builders import make_execution, make_record, make_run
from hypothesis import Phase, given, settings
from record_strategies import records

from lzero.config import Config, VLLMEngineConfig, load_config
from lzero.errors import ConfigError, StoreError
from lzero.store import Record, RunDirectory, check_new, read_episodes, read_records
from lzero.types import (
    Display,
    Output,
    Result,
    Task,
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run")


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Limit the size of files in the block, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_stored_task_has_the_names_of_its_files_and_not_their_places(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    task = Task(id="t1", question="?", answers=("yes",), files=("/home/a/tasks/bikes.csv",))
    run.write_records([Record(task=task, episodes=(), rewards=())], phase="eval", update=0)
    (record,) = read_records(run.path)
    assert record.task.files == ("bikes.csv",)


@settings(max_examples=30, deadline=None, phases=[Phase.generate])
@given(written=records())
def test_records_come_back_exactly(written: list[Record], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("store") / "run"
    run = make_run(path)
    run.write_records(written, phase="train", update=3)
    assert list(read_records(path)) == written


def test_rich_outputs_come_back_and_others_read_them_as_json(run: RunDirectory) -> None:
    image = base64.b64encode(bytes(range(256)) * 700).decode()
    outputs: tuple[Output, ...] = (
        Display(data={"text/plain": "<Figure>", "image/png": image}),
        Result(data={"text/plain": "   ä\n0  1", "text/html": "<th>ä\u2028</th>", "application/json": '{"a": [1]}'}),
    )
    plain = make_record("yes")
    step = msgspec.structs.replace(plain.episodes[0].steps[0], execution=make_execution(*outputs))
    record = msgspec.structs.replace(plain, episodes=(msgspec.structs.replace(plain.episodes[0], steps=(step,)),))
    run.write_records([record], phase="train", update=0)
    assert list(read_records(run.path)) == [record]
    image_of = "json_extract_string(execution.outputs, '$[0].data.\"image/png\"')"
    table = duckdb.read_parquet(f"{run.path}/episodes/steps/*.parquet")
    assert table.project(image_of).fetchall() == [(image,)]


def test_a_group_is_what_is_trained_on() -> None:
    group = make_record("yes", None, "no").group()
    assert [episode.index for episode in group.episodes] == [0, 2]
    assert [reward.score for reward in group.rewards] == [1.0, 0.0]


def test_records_are_read_by_phase_in_order_of_update(run: RunDirectory) -> None:
    for update in (2, 0, 1):
        run.write_records([make_record("yes", position=update)], phase="train", update=update)
    run.write_records([make_record("yes", position=9)], phase="eval", update=0)
    assert [record.task.id for record in read_records(run.path, phase="train")] == ["task-0", "task-1", "task-2"]
    read = list(read_records(run.path))
    assert [record.task.id for record in read] == ["task-9", "task-0", "task-1", "task-2"]
    assert list(read_episodes(run.path)) == [episode for record in read for episode in record.episodes]


def test_duckdb_reads_the_tables_as_they_are(run: RunDirectory) -> None:
    run.write_records([make_record("yes", "no"), make_record(None, "yes", position=1)], phase="train", update=4)
    root = run.path / "episodes"
    episodes, rewards, steps = (
        duckdb.read_parquet(f"{root}/{name}/*.parquet") for name in ("episodes", "rewards", "steps")
    )
    rows = (
        episodes.join(rewards, "episode_id")
        .join(steps, "episode_id")
        .aggregate('"update", count(*), avg(score), sum(len(completion.token_ids))')
        .fetchall()
    )
    assert rows == [(4, 3, pytest.approx(2 / 3), 3)]
    failed = episodes.filter("dropped <> ''").project("dropped, failure.kind, sampling.temperature")
    assert failed.fetchall() == [("failed", "repl", 1.0)]


def test_advantages_are_a_side_table(run: RunDirectory) -> None:
    run.write_advantages({"train-0/0/0": (0.5, -0.5)}, update=0)
    rows = duckdb.read_parquet(f"{run.path}/episodes/advantages/*.parquet").fetchall()
    assert rows == [("train-0/0/0", 0, 0.5), ("train-0/0/0", 1, -0.5)]


def test_the_resolved_configuration_repeats_the_run(run: RunDirectory) -> None:
    assert load_config(run.path / "config.toml") == run.config
    assert RunDirectory.open(run.path).config == run.config
    assert tomllib.loads((run.path / "config.toml").read_text())["run"]["dir"] == str(run.path)


def test_a_resumed_run_may_join_its_servers_at_other_addresses(tmp_path: Path) -> None:
    run = RunDirectory.create(load_config(None, ["engine.kind=vllm", f"run.dir={tmp_path / 'run'}"]))
    changes = ['engine.urls=["http://10.0.0.8:8000"]', "engine.program=/opt/vllm", "engine.sync_s=20"]
    engine = RunDirectory.open(run.path, changes).config.engine
    assert isinstance(engine, VLLMEngineConfig)
    assert (engine.urls, engine.program, engine.sync_s) == (("http://10.0.0.8:8000",), "/opt/vllm", 20.0)
    with pytest.raises(ConfigError, match=r"'engine.replicas=2' would change what the run in .* is"):
        RunDirectory.open(run.path, ["engine.replicas=2"])


def test_versions_are_recorded(run: RunDirectory) -> None:
    assert {'"python"', '"torch"', '"lzero"'} <= set((run.path / "versions.json").read_text().replace(":", " ").split())


def test_a_pipe_in_place_of_the_versions_is_not_waited_for(run: RunDirectory) -> None:
    (run.path / "versions.json").unlink()
    os.mkfifo(run.path / "versions.json")
    run.check_command("lzero eval")


def test_an_existing_run_directory_is_refused(run: RunDirectory) -> None:
    with pytest.raises(StoreError, match=r"exists: name another one \(run.dir=…\), or resume its run with --resume"):
        RunDirectory.create(run.config)


def test_an_empty_directory_may_become_a_run(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert (tmp_path / "config.toml").is_file()


def test_default_directories_are_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {RunDirectory.create(Config()).path for _ in range(3)}
    assert len(paths) == 3
    assert all(str(path).startswith("runs/world-") for path in paths)


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a run directory"):
        RunDirectory.open(tmp_path)
    with pytest.raises(StoreError, match="is not a run directory"):
        list(read_episodes(tmp_path))


def test_metrics_come_back(run: RunDirectory) -> None:
    run.append_metrics({"rollout/score": 0.25}, phase="train", update=0)
    run.append_metrics({"score": 0.5, "hops": {"1": 0.75}}, phase="eval", update=1)
    assert run.read_metrics() == [
        {"phase": "train", "update": 0, "rollout/score": 0.25},
        {"phase": "eval", "update": 1, "score": 0.5, "hops": {"1": 0.75}},
    ]


def test_logs_of_programs_are_kept_over_all_starts_and_one_that_is_gone_fails_no_run(
    run: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"
    for text in ("first start\n", "resumed\n"):
        log.write_text(text, encoding="utf-8")
        run.keep_log("vllm-0.log", log)
    log.unlink()
    run.keep_log("vllm-0.log", log)
    assert (run.path / "vllm-0.log").read_text(encoding="utf-8") == "first start\nresumed\n"
    assert "cannot keep vllm-0.log" in caplog.text


def test_a_line_of_metrics_cut_short_by_a_crash_is_left_out(run: RunDirectory) -> None:
    run.append_metrics({"a": 1}, phase="train", update=0)
    with (run.path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"phase": "tr')
    assert len(run.read_metrics()) == 1


def test_rewinding_counts_nothing_twice(run: RunDirectory) -> None:
    for update in range(4):
        run.write_records([make_record("yes", position=update)], phase="train", update=update)
        run.append_metrics({}, phase="train", update=update)
        run.write_records([make_record("yes", position=10 + update)], phase="eval", update=update)
        run.append_metrics({}, phase="eval", update=update)
    run.rewind(2)
    assert [record.task.id for record in read_records(run.path, phase="train")] == ["task-0", "task-1"]
    assert [record.task.id for record in read_records(run.path, phase="eval")] == ["task-10", "task-11", "task-12"]
    assert [(line["phase"], line["update"]) for line in run.read_metrics()] == [
        ("train", 0),
        ("eval", 0),
        ("train", 1),
        ("eval", 1),
        ("eval", 2),
    ]


def test_writing_an_update_again_replaces_it(run: RunDirectory) -> None:
    run.write_records([make_record("yes", "no"), make_record("yes", position=1)], phase="train", update=0)
    run.write_records([make_record("yes", position=7)], phase="train", update=0)
    assert [record.task.id for record in read_records(run.path)] == ["task-7"]


def test_a_full_disk_is_a_store_error_and_harms_nothing(run: RunDirectory) -> None:
    run.write_records([make_record("yes", "no")], phase="train", update=0)
    run.append_metrics({"a": 1}, phase="train", update=0)
    size = (run.path / "metrics.jsonl").stat().st_size
    with largest_file(size + 4):
        with pytest.raises(StoreError, match=r"train-000001\.parquet: File too large"):
            run.write_records([make_record("yes", position=1)], phase="train", update=1)
        with pytest.raises(StoreError, match=r"metrics\.jsonl"):
            run.append_metrics({"b": 1}, phase="train", update=1)
    assert [record.task.id for record in read_records(run.path)] == ["task-0"]
    assert run.read_metrics() == [{"phase": "train", "update": 0, "a": 1}]
    assert not list(run.path.rglob(".*")), "a temporary file was left behind"


def test_a_broken_table_is_a_store_error_with_its_path(run: RunDirectory) -> None:
    run.write_records([make_record("yes", "no")], phase="train", update=0)
    file = run.path / "episodes" / "steps" / "train-000000.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"steps/train-000000\.parquet"):
        list(read_episodes(run.path))


def test_a_table_of_another_version_is_refused(run: RunDirectory) -> None:
    run.write_records([make_record("yes", position=0)], phase="train", update=0)
    file = run.path / "episodes" / "steps" / "train-000000.parquet"
    pq.write_table(pq.read_table(file, partitioning=None).drop_columns(["notepad"]), file)
    with pytest.raises(StoreError, match=r"it has no column 'notepad', so another version of lzero wrote it"):
        list(read_episodes(run.path))


def test_the_log_takes_what_the_loggers_say(run: RunDirectory) -> None:
    with run.logged():
        logging.getLogger("lzero.rollout").info("42 episodes")
    assert "INFO lzero.rollout: 42 episodes" in (run.path / "run.log").read_text()


def test_nothing_in_a_message_of_the_log_is_hidden_or_looks_like_another_message(run: RunDirectory) -> None:
    with run.logged():
        logging.getLogger("lzero.rollout").warning(
            "it said: %s", "\x1b[2Jno\u200bne\n2026-01-31 INFO lzero: all is well"
        )
    assert (run.path / "run.log").read_text().endswith("it said: none\n  2026-01-31 INFO lzero: all is well\n")


def test_the_configuration_of_a_run_repeats_it_in_a_directory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = RunDirectory.create(Config()).path / "config.toml"
    with pytest.raises(StoreError, match="exists"):
        check_new(load_config(file))
    again = load_config(file, ["run.dir="])
    check_new(again)
    assert again == Config()
