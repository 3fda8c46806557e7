"""`lzero train` from its first line to its last: whole runs, interrupted ones, and those that go on."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from commands import Command, Ended, exit_code, lzero
from whole_runs import metrics, untimed_episodes, untimed_metrics

from lzero.cli import main
from lzero.models import resolve
from lzero.store import RunDirectory, read_episodes, read_records

pytestmark = pytest.mark.sandbox


def train(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    """Run the command, and return exit code, printed lines and errors."""
    with pytest.raises(SystemExit) as ended:
        main(("train", *arguments))
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert isinstance(ended.value.code, int)
    return ended.value.code, printed.out.splitlines(), printed.err


def phases(run: Path) -> list[tuple[str, int]]:
    return [(line["phase"], line["update"]) for line in metrics(run)]


def interrupt(*arguments: str, at: str, times: int = 1) -> tuple[int | None, str]:
    """Run `lzero train`, press Ctrl-C when it prints `at`, and return exit code and all output from there on."""
    command = Command("train", *arguments)
    assert any(at in line for line in command.stdout), "the run has ended"
    for _ in range(times):
        os.killpg(command.pid, signal.SIGINT)  # as a terminal does it: to all that belong to the command
    code, out, err = command.end()
    printed = out + err
    assert "Traceback" not in printed
    return code, printed


@pytest.fixture(scope="module")
def first_run(tiny_run: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """Return the directory of a run of two updates, and what its command printed."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    return run, lzero("train", *tiny_run, f"run.dir={run}", "eval.top_p=0.9", "--json")


@pytest.fixture(scope="module")
def finished(first_run: tuple[Path, Ended]) -> Path:
    """Return the run's directory. Copy it before changing it."""
    run, ended = first_run
    assert ended.code == 0, ended.err
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a finished run that a test may resume or break."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_prints_plain_lines_in_a_pipe_and_ends_with_json(first_run: tuple[Path, Ended]) -> None:
    run, ended = first_run
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    (note,) = (line for line in lines if line.startswith("note: "))
    assert note == "note: eval.top_p = 0.9 has no effect with eval.sampled_episodes = 0"
    assert note.removeprefix("note: ") in (run / "run.log").read_text()
    assert "2 updates, each from 2 tasks × 2 episodes" in lines[0]
    assert [line.split()[0] for line in lines if line.strip().startswith(("1/2", "2/2"))] == ["1/2", "2/2"]
    assert not any("\x1b" in line for line in lines)
    last = json.loads(lines[-1])
    assert last.keys() >= {"score_before", "score_after", "updates", "seconds", "episodes", "failures"}
    assert last["updates"] == 2
    assert last["episodes"] == len(list(read_episodes(run, phase="train")))
    assert sum(last["failures"].values()) == 0


def test_the_run_directory_holds_everything(finished: Path) -> None:
    names = {
        "config.toml",
        "inputs.json",
        "versions.json",
        "sandbox.jsonl",
        "metrics.jsonl",
        "run.log",
        "episodes",
        "checkpoints",
    }
    assert {file.name for file in finished.iterdir()} == names | {"learning-curve.png", "learning-curve.svg"}
    assert phases(finished) == [("eval", 0), ("train", 0), ("train", 1), ("eval", 2)]
    assert len(list(read_records(finished, phase="eval"))) == 2 * 3
    (sandbox,) = (finished / "sandbox.jsonl").read_text().splitlines()
    assert json.loads(sandbox).items() >= {"tier": "namespaces", "kernel": os.uname().release}.items()
    assert "2 updates made" in (finished / "run.log").read_text()
    for update in (1, 2):
        assert resolve(str(finished / "checkpoints" / f"update-{update:06d}"))


MINE = """
import itertools
import time

import numpy

from lzero.types import Reward

calls = itertools.count()


def odd(task, episode):
    if next(calls) == 5:
        return float("Kato")
    score = numpy.mean([1, 0])
    return Reward(score=score, per_step=[score for _ in episode.steps], parts={"half": numpy.full(len(episode.steps), 0.5)})


async def broken(task, episode):
    raise SystemExit("no judge")
"""


def test_a_reward_function_that_fails_costs_its_episode_and_numbers_of_numpy_cost_nothing(
    tiny_run: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd_rewards.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    settings = ("train.updates=1", "reward.function=odd_rewards:odd")
    code, lines, errors = train(*tiny_run, *settings, f"run.dir={run}", capsys=capsys)
    assert (code, errors) == (0, "")
    (note,) = (line for line in lines if "is left out" in line)
    assert "the reward function odd_rewards:odd raised ValueError: could not convert string to float: 'Kato'" in note
    assert "Traceback (most recent call last)" in (run / "run.log").read_text()
    assert sum(line["failures/reward"] for line in metrics(run)) == 1
    assert all(line["reward/half"] == line["reward/total"] > 0 for line in metrics(run))


def test_a_reward_function_that_always_fails_ends_the_run_with_a_checkpoint_and_its_name(
    tiny_run: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_rewards.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    code, _, errors = train(*tiny_run, f"run.dir={run}", "reward.function=broken_rewards:broken", capsys=capsys)
    assert code == 1
    assert "the reward function broken_rewards:broken raised SystemExit: no judge" in errors
    assert len(list((run / "checkpoints").iterdir())) == 1


def test_a_finished_run_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "inputs.json").unlink()  # as in a run of an earlier version
    code, lines, _ = train("--resume", str(run), "train.updates=3", "--json", capsys=capsys)
    assert code == 0
    assert json.loads(lines[-1])["updates"] == 3
    assert any("holds no inputs.json" in line for line in lines)
    assert (run / "inputs.json").exists()
    assert phases(run) == [("eval", 0), ("train", 0), ("train", 1), ("eval", 2), ("train", 2), ("eval", 3)]
    assert "updates = 3" in (run / "config.toml").read_text()


def test_a_run_whose_inputs_changed_is_resumed_only_where_that_is_accepted(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = (run / "inputs.json").read_text()
    changed = recorded.replace('"digest": "', '"digest": "0')
    (run / "inputs.json").write_text(changed)
    code, _, errors = train("--resume", str(run), "train.updates=3", capsys=capsys)
    assert code == 1
    assert "; or train a new run from its last policy: lzero train " in errors
    assert f"model.path={run / 'checkpoints' / 'update-000002'}" in errors
    assert (run / "inputs.json").read_text() == changed
    code, _, _ = train("--resume", str(run), "--accept-changes", "--json", capsys=capsys)
    assert code == 0
    assert (run / "inputs.json").read_text() == recorded
    assert "has other contents now, or another order; the run goes on with it" in (run / "run.log").read_text()
    assert "--accept-changes has an effect with --resume" in train("--accept-changes", capsys=capsys)[2]


def test_a_change_that_would_make_it_another_run_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "config.toml").read_text()
    for change in ("rollout.temperature=2", "model.path=elsewhere", "train.update=3", "train.epochs=2", "recipe.toml"):
        code, _, errors = train("--resume", str(run), change, capsys=capsys)
        assert code == 1
        assert errors.startswith("lzero: ")
    assert (run / "config.toml").read_text() == before


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (("run.trackers=['wandb']", "run.wandb=online"), "needs a key: set WANDB_API_KEY"),
        (("train.updates=1",), "train.updates = 1 is less than what the run has made (2 updates)"),
    ],
)
def test_a_change_that_is_refused_leaves_the_run_as_it_was(
    changes: tuple[str, ...],
    complaint: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(run)
    before = (run / "config.toml").read_text()
    code, _, errors = train("--resume", str(run), *changes, capsys=capsys)
    assert code == 1
    assert complaint in errors
    assert (run / "config.toml").read_text() == before


def test_a_run_that_is_under_way_is_not_resumed_beside_itself(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with RunDirectory.open(run).claimed():
        code, _, errors = train("--resume", str(run), "train.updates=3", capsys=capsys)
    assert code == 1
    assert f"another process uses {run}" in errors
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_checkpoint_cut_in_half_is_told_and_nothing_is_forgotten(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = run / "checkpoints" / "update-000002"
    state, weights = broken / "trainer.safetensors", broken / "model.safetensors"
    written = state.read_bytes()
    state.write_bytes(b"\xff" * 16 + written[16:])
    code, _, errors = train("--resume", str(run), "train.updates=3", capsys=capsys)
    assert code == 1
    assert f"{state}: cannot be read" in errors
    assert f"first run: rm -r {broken}" in errors
    state.write_bytes(written)
    weights.write_bytes(weights.read_bytes()[:1000])
    code, _, errors = train("--resume", str(run), "train.updates=3", capsys=capsys)
    assert code == 1
    assert f"{weights} is truncated" in errors
    assert f"To resume from update-000001 instead, first run: rm -r {broken}" in errors
    assert phases(run)[-1] == ("eval", 2)
    shutil.rmtree(broken)
    code, _, _ = train("--resume", str(run), "train.updates=3", capsys=capsys)
    assert code == 0
    assert phases(run) == [("eval", 0), ("train", 0), ("train", 1), ("train", 2), ("eval", 3)]


def test_a_checkpoint_of_another_configuration_is_refused_with_what_differs(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "config.toml"
    text = file.read_text()
    for old, new in (("kl_coef = 0.001", "kl_coef = 0.5"), ("episodes_per_task = 2", "episodes_per_task = 4")):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text.replace("updates = 2", "updates = 3"))  # which a resumed run may change
    code, _, errors = train("--resume", str(run), capsys=capsys)
    assert code == 1
    assert errors.strip().endswith(
        "update-000002 has another configuration than this run: algo.kl_coef is 0.001 in the checkpoint and 0.5 in this run; "
        "rollout.episodes_per_task is 2 in the checkpoint and 4 in this run"
    )


def test_another_optimizer_is_refused_because_its_moments_are_others(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = train("--resume", str(run), "train.optimizer=muon", capsys=capsys)
    assert code == 1
    assert "may change only train.*" in " ".join(errors.split())
    assert "without train.optimizer" in " ".join(errors.split())


def test_a_checkpoint_of_a_later_version_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "checkpoints" / "update-000002" / "trainer.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({"format": manifest["format"] + 1, "unheard": "of"}))
    code, _, errors = train("--resume", str(run), capsys=capsys)
    assert code == 1
    assert "update-000002 was written by a later version of lzero" in errors


def test_ctrl_c_saves_what_was_reached_and_the_run_resumes(
    tiny_run: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    code, printed = interrupt(*tiny_run, "train.updates=500", f"run.dir={run}", at=" 1/500")
    assert code == 130
    assert f"resume with: lzero train --resume {run}" in printed
    done = len(phases(run)) - 1
    assert phases(run) == [("eval", 0), *(("train", update) for update in range(done))]
    code, lines, _ = train("--resume", str(run), f"train.updates={done + 1}", "--json", capsys=capsys)
    assert (code, json.loads(lines[-1])["updates"]) == (0, done + 1)
    assert phases(run) == [("eval", 0), *(("train", update) for update in range(done + 1)), ("eval", done + 1)]


def test_ctrl_c_during_the_first_evaluation_leaves_a_run_that_resumes(
    tiny_run: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    at = "evaluating version 0"
    code, printed = interrupt(*tiny_run, "train.updates=1", "eval.num_tasks=16", f"run.dir={run}", at=at)
    assert code == 130
    assert f"stopped after update 0; resume with: lzero train --resume {run}" in printed
    code, _, _ = train("--resume", str(run), capsys=capsys)
    assert code == 0
    assert phases(run) == [("eval", 0), ("train", 0), ("eval", 1)]


def test_a_second_ctrl_c_does_not_wait(tiny_run: tuple[str, ...], tmp_path: Path) -> None:
    code, _ = interrupt(*tiny_run, f"run.dir={tmp_path / 'run'}", at="loading the model", times=2)
    assert code == 130


def run_twice(tmp_path: Path, *settings: str) -> tuple[Path, Path]:
    runs = (tmp_path / "one_by_one", tmp_path / "all_at_once")
    for run, concurrency in zip(runs, (1, 8), strict=True):
        assert exit_code("train", *settings, f"rollout.concurrency={concurrency}", f"run.dir={run}") == 0
    return runs


@pytest.mark.timeout(600)
@pytest.mark.parametrize("updates", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_deterministic_run_is_the_same_at_any_concurrency(updates: int, tmp_path: Path) -> None:
    """Episodes, metrics and weights, of the bundled model, whose cells run and search."""
    sizes = (
        f"train.updates={updates}",
        "rollout.tasks_per_update=2",
        "rollout.episodes_per_task=2",
        "rollout.max_refills=1",
    )
    few = ("eval.num_tasks=2", "agent.max_steps=2", "repl.zygotes=1")
    first, second = run_twice(tmp_path, "run.deterministic=true", *sizes, *few)
    episodes = untimed_episodes(first)
    assert episodes == untimed_episodes(second)
    assert any(step["tool_calls"] for episode in episodes for step in episode["steps"])
    assert untimed_metrics(first) == untimed_metrics(second)
    weights = [run / "checkpoints" / f"update-{updates:06d}" / "model.safetensors" for run in (first, second)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
