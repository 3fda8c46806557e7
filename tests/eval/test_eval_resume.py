"""An evaluation that was interrupted resumes: the questions that are missing, cut or failed run, and the result is that of one go."""

import asyncio
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
from builders import make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_fakes import FakeEpisodes, Shuffler, Tasks, make_runner
from whole_runs import untimed_metrics

from lzero.config import Config
from lzero.errors import StoreError
from lzero.eval.evaluate import Evaluator, all_recorded
from lzero.eval.finished import FinishedQuestions
from lzero.store import Record, RunDirectory, read_records
from lzero.types import Failure, Task

BROKEN = Failure(kind="engine", what="gone", where="step 0")
SAMPLES = 3


def config(num_tasks: int = 8) -> Config:
    return Config.model_validate({"eval": {"num_tasks": num_tasks, "sampled_episodes": SAMPLES}})


def decide(task: Task, seed: int, attempt: int) -> str | Failure:
    """Answer by the seed; the first attempt at one task fails."""
    return BROKEN if task.id == "task-2" and attempt == 0 else ("yes", "no")[seed % 2]


class Stopped(Exception):
    """The process ends here."""


def stop_after(number: int, run: RunDirectory) -> Any:
    """Return an observer that ends the evaluation at its question of this number, and checks that each is on disk when it counts."""
    seen: list[Record] = []

    def saw(phase: Any, record: Record) -> None:
        seen.append(record)
        lines = (run.path / "questions" / f"{phase}-000000.jsonl").read_bytes().splitlines()
        assert json.loads(lines[-1])["record"]["task"]["id"] == record.task.id
        if len(seen) == number:
            raise Stopped

    return saw


def evaluate(run: RunDirectory, **fields: Any) -> FakeEpisodes:
    """Evaluate, or resume the evaluation, in `run`; return what ran."""
    episodes = fields.pop("episodes", None) or FakeEpisodes(decide, Shuffler(fields.pop("shuffle", 1)))
    evaluator = Evaluator(
        runner=make_runner(episodes, max_failure_rate=1.0, concurrency=2), source=Tasks(8), config=config(), **fields
    )
    try:
        asyncio.run(evaluator.record(run))
    except* Stopped:
        pass
    return episodes


def tables(run: RunDirectory) -> dict[str, bytes]:
    """Return every table, whose times the fakes keep constant."""
    return {str(file.relative_to(run.path)): file.read_bytes() for file in (run.path / "episodes").glob("*/*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = make_run(tmp_path_factory.mktemp("whole") / "run")
    evaluate(run)
    return run


@pytest.mark.parametrize("number", [1, 5, 10])
def test_an_interrupted_evaluation_resumes_with_the_missing_questions(
    tmp_path: Path, whole: RunDirectory, number: int
) -> None:
    run = make_run(tmp_path / "run")
    evaluate(run, on_question=stop_after(number, run), shuffle=2)
    num_done = sum(file.read_bytes().count(b"\n") for file in (run.path / "questions").iterdir())
    ran = evaluate(run, shuffle=3)
    assert num_done >= number
    assert len({episode.rpartition("/")[0] for episode in ran.attempts}) == 16 - num_done
    assert tables(run) == tables(whole)
    assert untimed_metrics(run.path) == untimed_metrics(whole.path)
    assert not (run.path / "questions").exists()


@given(cut=st.floats(0.0, 1.0), damaged=st.booleans())
@settings(max_examples=12, deadline=None)
def test_only_what_was_cut_from_the_file_of_finished_questions_runs_again(
    whole: RunDirectory, cut: float, damaged: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        run = make_run(Path(directory) / "run")
        evaluate(run, on_question=stop_after(6, run), shuffle=2)
        file = run.path / "questions" / "eval-000000.jsonl"
        data = file.read_bytes()
        at = int(cut * len(data))
        file.write_bytes(data[:at] + (b"\x00" + data[at + 1 :] if damaged and at < len(data) else b""))
        is_changed = damaged and at < len(data)
        lost = (1 + (data[at : at + 1] == b"\n")) if is_changed else data.count(b"\n") - data[:at].count(b"\n")
        ran = evaluate(run)
        greedy = {episode for episode in ran.attempts if episode.startswith("eval")}
        assert len(greedy) == 8 - data.count(b"\n") + lost
        assert tables(run) == tables(whole)


def test_failed_questions_run_again_and_no_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(task: Task, seed: int, attempt: int) -> str | Failure:
        return BROKEN if task.id == "task-5" else "yes"

    run = make_run(tmp_path / "run")
    evaluate(run, episodes=FakeEpisodes(fail))
    assert [line["num_failed"] for line in run.read_metrics()] == [1.0, float(SAMPLES)]
    assert all_recorded(run, config(), Tasks(8)) is None
    again = evaluate(run, episodes=FakeEpisodes(lambda task, seed, attempt: "yes"))
    assert set(again.attempts) == {"eval-0/5/0", *(f"sampled-0/5/{index}" for index in range(SAMPLES))}
    lines = run.read_metrics()
    assert [(line["phase"], line["num_failed"], line["score"]) for line in lines] == [
        ("eval", 0.0, 1.0),
        ("sampled", 0.0, 1.0),
    ]
    assert lines[0]["failures/engine"] == 2.0, "the attempts of all sessions count"
    assert len(list(read_records(run.path, phase="eval"))) == 8
    assert evaluate(run).attempts == []


def test_training_keeps_no_files_of_questions(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    evaluate(
        run,
        episodes=FakeEpisodes(lambda task, seed, attempt: BROKEN if task.id == "task-5" else "yes"),
        in_training=True,
    )
    assert [line["num_failed"] for line in run.read_metrics()] == [1.0, float(SAMPLES)]
    assert not (run.path / "questions").exists()


def test_a_damaged_table_is_noticed_and_its_evaluation_runs_again(
    tmp_path: Path, whole: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path / "run")
    evaluate(run)
    file = run.path / "episodes" / "steps" / "eval-000000.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        ran = evaluate(run)
    assert str(file) in caplog.text
    assert {episode.partition("-")[0] for episode in ran.attempts} == {"eval"}
    assert tables(run) == tables(whole)


def test_a_question_whose_task_has_changed_runs_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    evaluate(run, on_question=stop_after(8, run))
    source = Tasks(8)
    ordinary = source.task
    source.task = lambda index: ordinary(index + 8 * (index == 3) if index != 3 else 4)  # type: ignore[method-assign]
    evaluator = Evaluator(
        runner=make_runner(episodes := FakeEpisodes(lambda task, seed, attempt: "yes")), source=source, config=config()
    )
    asyncio.run(evaluator.record(run))
    assert [episode for episode in episodes.attempts if episode.startswith("eval")] == ["eval-0/3/0"]


def test_finished_questions_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    questions = FinishedQuestions(tmp_path, "eval", 0)
    questions.file.mkdir(parents=True)
    with pytest.raises(StoreError, match=r"eval-000000.jsonl: it is a directory"):
        questions.open()
