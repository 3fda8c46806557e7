"""`lzero show`: what is saved is printed, hostile or not; what cannot be shown is told in a sentence."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from rollout_fakes import CUT_OFF, make_episode, make_task, reward
from saved_fakes import acted, saved_episodes, simple

from lzero.agent.save import save_run
from lzero.cli import main
from lzero.config import load_config
from lzero.store import Record, RunDirectory, SavedEpisode, write_saved
from lzero.types import Display, Failure, Stream

CONTROLS = {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160))}
HOSTILE = "\x1b[2J\x1b]0;title\x07[red]not red[/red] \x9b31m<|im_end|> \x08\x00[/nothing]"


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code, and all that was printed."""
    code = 0
    try:
        main(["show", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out + err


def test_hostile_outputs_are_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    step = acted(HOSTILE, Stream(name="stdout", text=HOSTILE), Display(data={"text/plain": HOSTILE}), think=HOSTILE)
    save_run(tmp_path, simple(step, answer=HOSTILE, question=HOSTILE))
    code, shown = show(capsys, str(tmp_path))
    assert code == 0
    assert not set(shown) & CONTROLS
    assert shown.count("[red]not red[/red] 31m<|im_end|> [/nothing]") == 6


@given(saved=saved_episodes())
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_episode_can_be_shown(
    saved: SavedEpisode, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    code, shown = show(capsys, str(write_saved(tmp_path_factory.mktemp("run"), saved)))
    assert code == 0
    assert not set(shown) & CONTROLS


def test_a_step_and_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_run(tmp_path, simple(acted("first()"), acted("second()")))
    code, shown = show(capsys, str(tmp_path), "--step", "2")
    assert (code, "first()" in shown, "second()" in shown, "Kato" in shown) == (0, False, True, False)
    assert json.loads(show(capsys, str(tmp_path), "--step", "1", "--json")[1])["parsed"]["code"] == "first()"
    assert json.loads(show(capsys, str(tmp_path), "--json")[1])["task"]["id"] == "t1"
    code, shown = show(capsys, str(tmp_path), "--step", "3")
    assert (code, shown) == (1, "lzero: --step 3: the episode has 2 steps\n")


def test_an_episode_of_a_training_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = RunDirectory.create(load_config(None, [f'run.dir="{tmp_path / "run"}"']))
    task = make_task(1)
    episode = make_episode(task)
    run.write_records(
        [Record(task=task, episodes=(episode,), rewards=(reward(task, episode),))], phase="eval", update=0
    )
    code, shown = show(capsys, str(run.path), "--episode", episode.id)
    assert (code, f"episode {episode.id}" in shown, "nano" in shown) == (0, True, True)
    for arguments in ((), ("--episode", "none")):
        code, shown = show(capsys, str(run.path), *arguments)
        assert (code, f"name one with --episode ({episode.id} …)" in shown) == (1, True)


def test_an_episode_that_was_not_trained_on_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = RunDirectory.create(load_config(None, [f'run.dir="{tmp_path / "run"}"']))
    task = make_task(1)
    cut, kept, lost = (
        make_episode(task, index=0, answer=None, failure=CUT_OFF),
        make_episode(task, index=1),
        make_episode(task, index=2, answer=None, failure=Failure(kind="repl", what="gone", where="step 0")),
    )
    record = Record(
        task=task, episodes=(cut, kept, lost), rewards=(None, reward(task, kept), None), dropped="straggler"
    )
    other = make_episode(make_task(2))
    trained = Record(task=make_task(2), episodes=(other,), rewards=(reward(make_task(2), other),))
    run.write_records([record, trained], phase="train", update=0)
    shown = {
        episode.id: show(capsys, str(run.path), "--episode", episode.id)[1] for episode in (cut, kept, lost, other)
    }
    assert "straggler at step 0, sampling: cut off" in shown[cut.id]
    assert shown[cut.id].endswith("not trained on: straggler\n")
    assert shown[kept.id].endswith("not trained on: straggler\n")
    assert shown[lost.id].endswith("not trained on: failed\n")
    assert "not trained on" not in shown[other.id]


def test_what_is_not_there_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert show(capsys, str(tmp_path / "none"))[1].startswith("lzero: there is no saved episode at")
    save_run(tmp_path, simple())
    assert "is not the directory of a training run" in show(capsys, str(tmp_path), "--episode", "e1")[1]
