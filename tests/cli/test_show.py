"""`lzero show`: what is saved is printed, hostile or not; what cannot be shown is told in a sentence."""

import json
from pathlib import Path

import msgspec
import pytest
from builders import GONE, make_attempt, make_cell, make_record, make_run, make_saved, numbered_task
from hypothesis import HealthCheck, given, settings
from rollout_fakes import CUT_OFF
from saved_strategies import saved_episodes

from lzero.agent.save import save_run
from lzero.cli import main
from lzero.models import load_tokenizer, resolve
from lzero.store import RunDirectory, SavedEpisode, write_saved
from lzero.types import Display, Message, Prompt, Stream

CONTROLS = {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160))}
HOSTILE = "\x1b[2J\x1b]0;title\x07[red]not red[/red] \x9b31m<|im_end|> \x08\x00[/nothing]"


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command, and return exit code and all output."""
    code = 0
    try:
        main(["show", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out + err


def test_hostile_outputs_are_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    step = make_cell(HOSTILE, Stream(name="stdout", text=HOSTILE), Display(data={"text/plain": HOSTILE}), think=HOSTILE)
    save_run(tmp_path, make_saved(step, answer=HOSTILE, question=HOSTILE))
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
    save_run(tmp_path, make_saved(make_cell("first()"), make_cell("second()")))
    code, shown = show(capsys, str(tmp_path), "--step", "2")
    assert (code, "first()" in shown, "second()" in shown, "Kato" in shown) == (0, False, True, False)
    assert json.loads(show(capsys, str(tmp_path), "--step", "1", "--json")[1])["parsed"]["code"] == "first()"
    assert json.loads(show(capsys, str(tmp_path), "--json")[1])["task"]["id"] == "t1"
    code, shown = show(capsys, str(tmp_path), "--step", "3")
    assert (code, shown) == (1, "lzero: --step 3: the episode has 2 steps\n")


def test_an_episode_of_a_training_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    episode = make_attempt(numbered_task(1))
    run.write_records([make_record(episode, position=1)], phase="eval", update=0)
    code, shown = show(capsys, str(run.path), episode.id)
    assert (code, f"episode {episode.id}" in shown, "nano" in shown) == (0, True, True)
    assert shown.endswith("gold    yes\nscore   1\nreward  1 = qa 1\n")
    assert json.loads(show(capsys, str(run.path), episode.id, "--json")[1])["reward"]["score"] == 1.0
    code, shown = show(capsys, str(run.path), "none")
    assert (code, shown) == (1, f"lzero: {run.path} has no episode 'none' (lzero show {run.path} lists them)\n")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Return a run of 50 right, 10 wrong and 1 failed episodes."""
    run = make_run(tmp_path_factory.mktemp("many") / "run")
    records = [make_record("yes" if number < 50 else "no\x1b[2J", position=number) for number in range(60)]
    lost = make_attempt(numbered_task(59), index=1, failure=GONE)
    run.write_records(records, phase="eval", update=3)
    run.write_records([make_record(lost, position=59)], phase="train", update=0)
    return run


def test_every_episode_of_a_run_is_listed(capsys: pytest.CaptureFixture[str], many: RunDirectory) -> None:
    path = str(many.path)
    code, first = show(capsys, path)
    lines = first.splitlines()
    assert (code, lines[0].split()) == (0, ["episode", "task", "status", "score", "reward", "steps", "answer"])
    assert lines[1].split(maxsplit=6) == ["task-59/1", "task-59", "failed", "1", "repl:", "gone"]
    assert lines[-2] == f"1 to 40 of 61 episodes (page 1 of 2: --page N); one of them: lzero show {path} EPISODE"
    assert lines[-1] == "failed: 1 of 61 episodes, at 1 of 60 tasks; most at task-59 (1 of 2: repl)"
    _, second = show(capsys, path, "--page", "2")
    ids = {line.split()[0] for line in (*lines[1:-2], *second.splitlines()[1:-2])}
    assert ids == {*(f"task-{number}/0" for number in range(60)), "task-59/1"}
    assert "41 to 61 of 61 episodes (page 2 of 2" in second
    assert r"'no\x1b[2J'" in second
    assert not set(second) & CONTROLS
    for flags, number in {
        ("--wrong",): 10,
        ("--failed",): 1,
        ("--wrong", "--failed"): 11,
        ("--task", "task-59"): 2,
        ("--limit", "3", "--page", "21"): 1,
        (): 61,
    }.items():
        rows = [json.loads(line) for line in show(capsys, path, *flags, "--json")[1].splitlines()]
        assert len(rows) == number, flags
    assert rows[1]["score"] == 1.0
    assert show(capsys, path, "--task", "none")[1] == f"{path} has no such episodes\n"


def test_flags_without_effect_are_refused(capsys: pytest.CaptureFixture[str], many: RunDirectory) -> None:
    path = str(many.path)
    for arguments, complaint in {
        ("--page", "3"): "--page 3: there are 2 pages",
        ("--step", "1"): "--step needs an episode",
        ("--prompt",): "--prompt needs an episode",
        ("task-1/0", "--wrong"): "--wrong has no effect on one episode",
    }.items():
        code, said = show(capsys, path, *arguments)
        assert (code, complaint in said) == (1, True)


def test_prompts_are_shown_as_the_model_saw_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    turn = Message(role="user", content="Who is it?")
    words = msgspec.structs.replace(make_cell("1"), prompt=Prompt(keep=0, new_ids=(), new_messages=(turn,)))
    more = msgspec.structs.replace(words, prompt=msgspec.structs.replace(words.prompt, keep=2))
    write_saved(tmp_path / "words", make_saved(words, more))
    shown = show(capsys, str(tmp_path / "words"), "--prompt")[1]
    assert "prompt of step 1\n[user]\nWho is it?\n" in shown
    assert "prompt of step 2\n[2 turns as before]\n[user]" in shown
    ids = tuple(load_tokenizer(resolve("nano")).encode("Starting from Liri", add_special_tokens=False))
    tokens = msgspec.structs.replace(make_cell("1"), prompt=Prompt(keep=0, new_ids=ids))
    write_saved(tmp_path / "tokens", msgspec.structs.replace(make_saved(tokens), model="nano"))
    assert "prompt of step 1\nStarting from Liri\n" in show(capsys, str(tmp_path / "tokens"), "--prompt")[1]


def test_no_directory_is_opened_because_a_record_names_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tokens = msgspec.structs.replace(make_cell("1"), prompt=Prompt(keep=0, new_ids=(1,)))
    here = str(resolve("nano"))
    write_saved(tmp_path, msgspec.structs.replace(make_saved(tokens), model=here))
    code, said = show(capsys, str(tmp_path), "--prompt")
    assert code == 1
    assert f"add --model {here}" in " ".join(said.split())
    assert "prompt of step 1" in show(capsys, str(tmp_path), "--prompt", "--model", here)[1]
    assert "--model has no effect without --prompt" in show(capsys, str(tmp_path), "--model", here)[1]


def test_an_episode_that_was_not_trained_on_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    failures = (CUT_OFF, None, GONE)
    cut, kept, lost = (make_attempt(numbered_task(1), index=index, failure=how) for index, how in enumerate(failures))
    other = make_attempt(numbered_task(2))
    record = make_record(cut, kept, lost, position=1, dropped="straggler")
    run.write_records([record, make_record(other, position=2)], phase="train", update=0)
    shown = {episode.id: show(capsys, str(run.path), episode.id)[1] for episode in (cut, kept, lost, other)}
    assert "straggler at step 0, sampling: cut off" in shown[cut.id]
    assert shown[cut.id].endswith("not trained on: straggler\n")
    assert shown[kept.id].endswith("not trained on: straggler\n")
    assert shown[lost.id].endswith("not trained on: failed\n")
    assert "not trained on" not in shown[other.id]


def test_what_is_not_there_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert show(capsys, str(tmp_path / "none"))[1].startswith("lzero: there is no saved episode at")
    save_run(tmp_path, make_saved())
    assert "is not the directory of a training run" in show(capsys, str(tmp_path), "e1")[1]
