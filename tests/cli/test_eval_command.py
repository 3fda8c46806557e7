"""`lzero eval` that is stopped and killed, and resumes."""

import signal
from pathlib import Path

import pytest
from commands import Ended, exit_code, lzero
from whole_runs import tables, untimed_episodes, untimed_metrics

from lzero.config import make_config
from lzero.store import RunDirectory

pytestmark = [pytest.mark.sandbox, pytest.mark.integration]

POLICY = """
import os
from pathlib import Path

from lzero.data.world import POLICIES

SIGNALS = {{{signals}}}


def expert(transcript, seed):
    for file in Path("cut/questions").glob("*.jsonl"):
        if number := SIGNALS.pop(file.read_bytes().count(b"\\n"), 0):
            os.kill(os.getpid(), number)
    return POLICIES["expert"](transcript, seed)
"""
"""A policy that sends its own process a signal when this many questions are finished."""


def evaluate(place: Path, *arguments: str, signals: str = "") -> Ended:
    (place / "interrupted.py").write_text(POLICY.format(signals=signals))
    return lzero("eval", *arguments, directory=place)


def test_a_stopped_and_killed_evaluation_ends_as_one_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = ("engine.kind=scripted", "engine.policy=interrupted:expert", "eval.num_tasks=6", "rollout.concurrency=1")
    assert evaluate(tmp_path, *policy, "run.dir=whole").code == 0
    stopped = evaluate(tmp_path, *policy, "run.dir=cut", signals=f"2: {signal.SIGTERM:d}")
    assert (stopped.code, stopped.err) == (143, "lzero: stopped; resume with: lzero eval --resume cut\n")
    killed = evaluate(tmp_path, "--resume", "cut", signals=f"4: {signal.SIGKILL:d}")
    assert killed.code == -signal.SIGKILL
    questions = tmp_path / "cut" / "questions" / "eval-000000.jsonl"
    assert questions.read_bytes().count(b"\n") == 4
    resumed = evaluate(tmp_path, "--resume", "cut", "rollout.concurrency=2")
    assert (resumed.code, resumed.err) == (0, "")
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert untimed_episodes(cut) == untimed_episodes(whole)
    assert tables(cut) == tables(whole)
    assert untimed_metrics(cut) == untimed_metrics(whole)
    monkeypatch.chdir(tmp_path)
    assert exit_code("eval", "--resume", "cut") == 0
    again = capsys.readouterr().out.splitlines()
    assert "the evaluation is complete: no question is missing or failed" in again
    assert [line for line in again if "EM" in line] == [line for line in resumed.out.splitlines() if "EM" in line]


def test_what_cannot_be_resumed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("eval", "--resume", "nowhere") == 1
    assert "nowhere is not a run directory" in capsys.readouterr().err
    assert exit_code("eval", "--accept-changes") == 1
    assert "--accept-changes has an effect with --resume only" in capsys.readouterr().err
    assert exit_code("eval", "run.dir=trained", "--resume", "trained") == 1
    assert "trained" in capsys.readouterr().err


@pytest.mark.parametrize(("made_by", "resumed_by"), [("train", "eval"), ("eval", "train"), ("sft", "train")])
def test_a_run_of_another_command_is_not_resumed(
    tmp_path: Path, made_by: str, resumed_by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory.create(make_config({"run": {"dir": str(tmp_path / "run")}}), command=f"lzero {made_by}").path
    assert exit_code(resumed_by, "--resume", str(run)) == 1
    assert f"{run} is a run of lzero {made_by}" in capsys.readouterr().err


def test_a_run_that_has_trained_is_not_resumed_as_an_evaluation_when_its_record_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "episodes" / "steps").mkdir(parents=True)
    (tmp_path / "episodes" / "steps" / "train-000000.parquet").touch()
    (tmp_path / "config.toml").touch()
    assert exit_code("eval", "--resume", str(tmp_path)) == 1
    assert f"{tmp_path} is a run of lzero train: resume it with lzero train" in capsys.readouterr().err
