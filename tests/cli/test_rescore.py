"""`lzero rescore`: another reward for stored episodes."""

import json
import math
import sys
from pathlib import Path

import pytest
from builders import make_record, make_run
from commands import exit_code

from lzero.config import load_config
from lzero.eval.rescore import advantage_change
from lzero.store import RunDirectory, read_records

REWARDS = """
def lenient(task, episode):
    return float((episode.answer or "").strip().lower() in ("yes", "aye"))

def picky(task, episode, letter="y"):
    if episode.answer == "aye":
        raise ValueError("what is this?")
    return float(episode.answer.startswith(letter))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    (tmp_path / "other_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run")
    run.write_records([make_record("yes", position=0), make_record("aye", position=1)], phase="eval", update=0)
    trained = [make_record("yes", "no", position=2), make_record("aye", "no", None, position=3)]
    run.write_records(trained, phase="train", update=0)
    advantages = {episode.id: (0.5,) * len(episode.steps) for record in trained for episode in record.episodes}
    run.write_advantages(advantages, update=0)
    return run


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = exit_code("rescore", *arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_scores_of_every_evaluation_and_update_change_and_the_run_does_not(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(read_records(run.path))
    code, printed, errors = said(capsys, "run", "--reward", "other_rewards:lenient", "--out", "again.jsonl")
    assert (code, errors) == (0, "")
    assert printed.splitlines()[0] == "eval 0: score 0.500 → 1.000 over 2 episodes (1 up, 0 down)"
    assert printed.splitlines()[1] == "train 0: score 0.250 → 0.500 over 4 episodes (1 up, 0 down)"
    assert "advantages of 4 steps" in printed
    lines = [json.loads(line) for line in Path("again.jsonl").read_text().splitlines()]
    assert [(line["answer"], line["score"], line["new_score"]) for line in lines if line["phase"] == "eval"] == [
        ("yes", 1.0, 1.0),
        ("aye", 0.0, 1.0),
    ]
    assert list(read_records(run.path)) == before


def test_an_episode_that_the_other_reward_cannot_score_is_counted(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed, _ = said(capsys, "run", "--reward", "other_rewards:picky", "reward.options.letter=n", "--json")
    assert code == 0
    evaluation, update = (json.loads(line) for line in printed.splitlines())
    assert (evaluation["num_episodes"], evaluation["num_failed"], evaluation["num_down"]) == (1, 1, 1)
    assert (update["num_episodes"], update["num_failed"]) == (3, 1)


def test_the_keys_of_the_runs_own_reward_change(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = said(capsys, "run", "reward.match=ascii")
    assert code == 0
    assert "eval 0: score 0.500 → 0.500 over 2 episodes (0 up, 0 down)" in printed


def test_code_keys_and_addresses_are_those_of_the_command_line(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run may be a stranger's: its reward would run here, and its judge would get a key of this machine."""
    monkeypatch.setenv("MY_KEY", "secret")
    own = (
        "reward.function=other_rewards:lenient",
        "reward.options={}",
        "judge.model=m",
        "judge.url=http://127.0.0.1:9/v1",
    )
    config = load_config(None, [*own, "judge.key=MY_KEY", "tools.env_file=keys.env"])
    run.config = config
    run.keep_changes()
    monkeypatch.delitem(sys.modules, "other_rewards", raising=False)
    code, _, errors = said(capsys, "run", "reward.timeout_s=5")
    assert code == 1
    assert "add reward.function=other_rewards:lenient if you trust it" in errors
    assert "other_rewards" not in sys.modules
    assert said(capsys, "run", "reward.timeout_s=5", own[0])[0] == 0
    code, _, errors = said(capsys, "run", "--reward", "simpleqa")
    assert code == 1
    assert "asks a judge: set judge.model (and judge.url)" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "name another reward: --reward gaia, --reward package.module:name"),
        (("run", "agent.max_steps=3"), "'agent.max_steps=3' has no effect on stored episodes"),
        (("run", "--reward", "other_rewards:lenien"), "lenien"),
        (("run", "reward.mach=ascii"), "did you mean 'reward.match'?"),
        (("run", "reward.match=ascii", "--out", "other_rewards.py"), "--out other_rewards.py exists"),
        (("run", "reward.match=ascii", "--out", "nowhere/again.jsonl"), "there is no directory nowhere"),
        (("nowhere", "reward.match=ascii"), "nowhere is not a run directory"),
    ],
)
def test_bad_input_is_named(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, _, errors = said(capsys, *arguments)
    assert code == 1
    assert message in errors


def test_advantages_are_compared_step_by_step() -> None:
    same = advantage_change([(1.0, 2.0), (-1.0, -2.0), (0.5, 1.0)])
    assert same is not None
    assert (same.num_steps, same.opposite) == (3, 0.0)
    assert same.correlation == pytest.approx(1.0)
    other = advantage_change([(1.0, -1.0), (0.0, 1.0), (2.0, 2.0), (-1.0, -1.0)])
    assert other is not None
    assert other.opposite == 0.5
    flat = advantage_change([(1.0, 1.0), (1.0, 2.0)])
    assert flat is not None
    assert math.isnan(flat.correlation)
    assert advantage_change([]) is None
